"""How good the chunks are that `graphopt.auto_chunks` chooses: against the best of a dense sweep of all data, in one run.

The sweep knows nothing of the search: its counts are at most the root of two apart, with multiples of the workers beside them,
and those that may be best take turns. The best of twenty times was lucky too, so the best count and the chosen one then take
turns by themselves, and *regret* is how much longer a call takes with the chosen one there. *Predicted* is how far off the time
is that the choice says for what was chosen, from what a call takes right after (median of three seconds of them). *Between* is
how far off the model is for counts of the sweep that the search never ran, as a median over those near the best.
``--iterations`` is many, because regret does not count what it takes to change the chunks.

Run ``python bench/chunks.py``; ``--problems``, ``--executors``, ``--parts`` and ``--rounds`` bound it, ``--json`` writes the
figures to a file, ``-v`` prints each choice and sweep.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import statistics
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import dask
import dask.array as da
import numpy as np
import scipy.sparse
from iterative import cg_step, heat_step, kmeans_step
from measure import machine
from problems import logistic

import graphopt as go
from graphopt.chunks.executor import executor_of, put
from graphopt.chunks.sampling import call_of
from graphopt.tuning.sweep import dense, sweep, timed

Made = tuple[Callable[..., Any], tuple[Any, ...]]  # the step, and its arguments

parts = 200  # as the data comes; --parts


def rows(data: np.ndarray) -> da.Array:
    """Store an array in blocks of rows."""
    return da.from_array(data, chunks=(-(-len(data) // parts), *data.shape[1:])).persist(scheduler="sync")


def logistic_of(length: int, columns: int) -> Made:
    rng = np.random.default_rng(0)
    X = rng.random((length, columns))
    y = (X[:, 0] > 0.5).astype(float)
    return logistic, (rows(X), rows(y), rng.random(columns) - 0.5)


def conjugate_gradient() -> Made:
    rng = np.random.default_rng(1)
    X, x = rng.standard_normal((800_000, 30)), rng.standard_normal(30)
    return lambda X, x, r, p: cg_step(X, 0.5, x, r, p, 1.0), (rows(X), x, x, x)


def heat() -> Made:
    return lambda u: heat_step(u, 0.2), (rows(np.random.default_rng(3).random((1_600, 1_600))),)


def kmeans() -> Made:
    rng = np.random.default_rng(4)
    X = rng.random((200_000, 8))
    return kmeans_step, (rows(X), X[:6].copy())


def wide() -> Made:
    rng = np.random.default_rng(5)
    X = rng.random((2_000, 20_000))
    return lambda X, v: X.T.dot(X.dot(v)), (rows(X), rng.random(20_000))


def products(block: Any, v: np.ndarray) -> np.ndarray:
    return np.asarray(block @ v)


def transposed_column(block: Any, residual: np.ndarray) -> np.ndarray:
    return np.asarray(block.T @ residual[:, 0])[None]


def sparse() -> Made:
    matrix = scipy.sparse.random(300_000, 2_000, density=0.01, format="csr", random_state=6)
    size = -(-matrix.shape[0] // parts)
    blocks = [matrix[i : i + size] for i in range(0, matrix.shape[0], size)]
    X = da.concatenate([da.from_delayed(dask.delayed(part), part.shape, meta=matrix[:0]) for part in blocks])
    rng = np.random.default_rng(7)
    y = rows(rng.random(matrix.shape[0]))
    return sparse_step, (X.persist(scheduler="sync"), y, rng.random(2_000))


def sparse_step(X: da.Array, y: da.Array, beta: np.ndarray) -> Any:
    """The gradient of a logistic loss over CSR blocks."""
    eta = X.map_blocks(products, beta, drop_axis=1, dtype=float, meta=np.empty(0))
    residual = (1 / (1 + da.exp(-eta)) - y)[:, None]
    shape = ((1,) * X.numblocks[0], (X.shape[1],))
    return da.map_blocks(transposed_column, X, residual, dtype=float, chunks=shape, meta=np.empty((0, 0))).sum(axis=0)


PROBLEMS: dict[str, Callable[[], Made]] = {
    "logistic 1e6 x 15": lambda: logistic_of(1_000_000, 15),
    "logistic 2e5 x 300": lambda: logistic_of(200_000, 300),
    "conjugate gradient": conjugate_gradient,
    "heat": heat,
    "k-means": kmeans,
    "wide": wide,
    "csr": sparse,
}

EXECUTORS = ("compiled", "threads", "compiled on a cluster")


@contextlib.contextmanager
def executor(name: str) -> Iterator[None]:
    """Make an executor the one in use."""
    if name != "compiled on a cluster":
        yield
        return
    import distributed

    with (
        distributed.LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=":0", silence_logs=60) as cluster,
        distributed.Client(cluster),
    ):
        yield


def put_all(args: tuple[Any, ...]) -> tuple[Any, ...]:
    """Put arrays where the executor in use works."""
    where = executor_of(print)
    if where.client is None:
        return args
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # that it is a lot to send: it is sent once
        return tuple(put(where, [value])[0] if isinstance(value, da.Array) else value for value in args)


def most(args: tuple[Any, ...]) -> int:
    """Return the most chunks that make sense: 4096, or chunks of 32 KiB."""
    data: da.Array = args[0]
    return int(min(4096, data.shape[0], max(1, data.nbytes // (32 << 10))))


def measured(name: str, where: str, options: argparse.Namespace) -> dict[str, Any]:
    """Choose chunks for a problem, sweep them, and say how far apart the two are."""
    with executor(where):
        step, args = PROBLEMS[name]()
        args = put_all(args)
        step = go.compile(step) if where.startswith("compiled") else step
        choice = go.auto_chunks(args[0], step, *args[1:], seconds=options.seconds, iterations=options.iterations)
        if options.verbose:
            print(choice)
        chosen = choice.chosen.count
        kept = choice.rechunk(*args)
        soon = timed(step, kept if isinstance(kept, tuple) else (kept,), 3.0)
        workers = executor_of(step).workers
        times, worse = sweep(step, args, choice._axes, dense(workers, most(args)), options.rounds, always=[chosen])
        best = min(times, key=times.__getitem__)
        duel, _ = sweep(step, args, choice._axes, [], options.rounds, always={chosen, best})
    call, ran = call_of(args[0], args[1:], choice._axes), {one.count for one in choice.candidates if one.measured is not None}
    between = [
        abs(choice.model.seconds(call.sizes_of(call.lengths(count))) / took - 1)
        for count, took in times.items()
        if count not in ran
    ]
    return {
        "problem": name,
        "executor": where,
        "chosen": chosen,
        "best": best,
        "took": duel[chosen],
        "regret": max(0.0, duel[chosen] / duel[best] - 1),
        "predicted": choice.chosen.seconds / soon - 1,
        "between": statistics.median(between) if between else 0.0,
        "seconds": choice.seconds,
        "sweep": times,
        "worse": worse,
        "choice": choice.to_dict(),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--problems", nargs="+", default=list(PROBLEMS), choices=list(PROBLEMS))
    parser.add_argument("--executors", nargs="+", default=list(EXECUTORS), choices=EXECUTORS)
    parser.add_argument("--rounds", type=int, default=40)
    parser.add_argument("--parts", type=int, default=parts, help="chunks that the data comes in (default %(default)s)")
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--iterations", type=int, default=10_000, help="calls to come (default %(default)s)")
    parser.add_argument("--json", metavar="FILE")
    parser.add_argument("-v", "--verbose", action="store_true")
    options = parser.parse_args()
    globals()["parts"] = options.parts
    print(machine())
    print(f"{'':19} {'executor':21} chosen   best  regret      took  predicted  between  search")
    found = []
    for where in options.executors:
        for name in options.problems:
            row = measured(name, where, options)
            print(
                f"{name:19} {where:21} {row['chosen']:6} {row['best']:6} {row['regret']:7.1%} {1e3 * row['took']:6.2f} ms"
                f" {row['predicted']:10.1%} {row['between']:8.1%} {row['seconds']:5.1f} s",
                flush=True,
            )
            if options.verbose:
                for heat in ("sweep", "worse"):
                    shown = ", ".join(f"{count}: {1e3 * took:.2f}" for count, took in row[heat].items())
                    print(f"   {heat}: {shown}", flush=True)
            found.append(row)
    worst = [max(abs(row[figure]) for row in found) for figure in ("regret", "predicted", "between")]
    print("worst regret {:.1%}, predicted {:.1%} off, between what was run {:.1%} off".format(*worst))
    if options.json:
        with open(options.json, "w") as file:
            json.dump(found, file, indent=2)


if __name__ == "__main__":
    main()
