"""``optimized()``: what the context sets and restores, what a policy may say, and that dask computes the same in it.

The second half is a catalogue: an example of everything that dask arrays and bags can do, computed inside and outside, and
compared, arrays bit for bit. It is long because dask is.
"""

from __future__ import annotations

import operator
import pickle
import threading
import warnings
from collections.abc import Callable
from typing import Any

import dask
import dask.array as da
import dask.bag as db
import numpy as np
import pytest
from seen import STRICT, run_here

import graphopt as go
from graphopt.pipeline import Optimizer

pytestmark = pytest.mark.timeout(60)

A = np.random.default_rng(0).random((40, 30))
V = np.random.default_rng(1).random(40)
HOOKS = ("array_optimize", "delayed_optimize", "bag_optimize")


def x() -> Any:
    return da.from_array(A, chunks=(10, 15))


def hooks() -> list[Any]:
    return [dask.config.get(name, None) for name in HOOKS]


# -- the context -------------------------------------------------------------------------------------------------------


def test_it_sets_and_restores() -> None:
    before = hooks()
    with go.optimized() as policy:
        assert hooks() == [Optimizer(policy)] * 3
    assert hooks() == before == [None] * 3


def test_it_restores_what_was_there() -> None:
    def mine(graph: Any, keys: Any, **options: Any) -> Any:
        return graph

    with dask.config.set(array_optimize=mine):
        with go.optimized():
            assert mine not in hooks()
        assert hooks() == [mine, None, None]


def test_the_innermost_counts() -> None:
    """Policies nest; after each exit the outer one counts again, tasks are the proof."""
    value = dask.delayed(abs)(dask.delayed(abs)(dask.delayed(abs)(-1)))

    def tasks() -> int:
        with run_here() as ran:
            assert value.compute(scheduler="sync") == 1
        return len(ran)

    assert tasks() == 3
    with go.optimized(**STRICT):
        assert tasks() == 1
        with go.optimized(passes=("cull",), **STRICT) as inner:
            assert inner.passes == ("cull",)
            assert tasks() == 3
            with go.optimized(**STRICT):
                assert tasks() == 1
            assert tasks() == 3
        assert tasks() == 1
    assert tasks() == 3


def test_it_is_left_by_exceptions() -> None:
    class Leave(Exception):
        pass

    with go.optimized(parallelism=3) as outer:
        with pytest.raises(Leave), go.optimized(parallelism=4):
            raise Leave
        assert hooks() == [Optimizer(outer)] * 3
        with pytest.raises(ZeroDivisionError), go.optimized(**STRICT):
            dask.delayed(lambda: 1 / 0)().compute(scheduler="sync")
        assert hooks() == [Optimizer(outer)] * 3
        with pytest.raises(go.PolicyError), go.optimized(parallelism=-1):
            pytest.fail("never entered")
        assert hooks() == [Optimizer(outer)] * 3
    assert hooks() == [None] * 3


def test_it_decorates() -> None:
    @go.optimized(strict=True, parallelism=2)
    def run() -> int:
        with run_here() as ran:
            (da.exp(x()) - 1 / x()).compute(scheduler="sync")
        return len(ran)

    assert run() == run() == 9
    assert hooks() == [None] * 3


def test_a_computation_keeps_the_policy_it_was_started_with() -> None:
    """Dask reads the hook when compute is called. Collections made inside are optimised outside like any other."""
    with go.optimized(**STRICT, parallelism=2):
        made = da.exp(x()) - 1 / x()
    with run_here() as ran:
        made.compute(scheduler="sync", optimize_graph=False)
    assert len(ran) > 9


def test_optimize_graph_false_is_obeyed() -> None:
    made = da.exp(x()) - 1 / x()
    with go.optimized(**STRICT, parallelism=2), run_here() as ran:
        made.compute(scheduler="sync", optimize_graph=False)
    assert len(ran) > 9


def test_threads_compute_at_once() -> None:
    results: list[Any] = [None] * 8
    expected = dask.compute((da.exp(x()) - 1 / x()).sum(axis=0), scheduler="sync", optimize_graph=False)[0]

    def work(i: int) -> None:
        results[i] = (da.exp(x()) - 1 / x()).sum(axis=0).compute(scheduler="threads", num_workers=2)

    with go.optimized(**STRICT):
        threads = [threading.Thread(target=work, args=(i,)) for i in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    for result in results:
        np.testing.assert_array_equal(result, expected)


def test_the_optimiser_is_what_dask_needs_it_to_be() -> None:
    """Part of an expression: hashable, comparable, picklable; and equal ones let dask merge collections into one graph."""
    one, same, other = (Optimizer(go.Policy(parallelism=n)) for n in (2, 2, 3))
    assert one == same != other
    assert hash(one) == hash(same)
    assert pickle.loads(pickle.dumps(other)) == other
    assert dask.tokenize.tokenize(one) == dask.tokenize.tokenize(same) != dask.tokenize.tokenize(other)


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"speed": 9}, "speed"),
        ({"parallelism": 0}, "parallelism"),
        ({"spare": 0}, "spare"),
        ({"max_bytes": -1}, "max_bytes"),
        ({"passes": ("magic",)}, "magic"),
        ({"passes": "cull"}, "passes"),
        ({"strict": 1}, "strict"),
        ({"policy": "fast"}, "fast"),
    ],
)
def test_what_makes_no_sense_is_refused(options: dict[str, Any], match: str) -> None:
    with pytest.raises(go.PolicyError, match=match), go.optimized(**options):
        pytest.fail("never entered")


# -- failures of ours --------------------------------------------------------------------------------------------------


class Broken(dict):
    """A graph that breaks whoever reads it as we do, though it can be run."""

    def items(self) -> Any:
        raise RuntimeError("a defect of ours")


def test_a_failure_of_ours_costs_speed_not_the_answer() -> None:
    from dask.delayed import Delayed

    value = Delayed("a", Broken(a=dask.task_spec.Task("a", abs, -1)))
    with pytest.warns(go.GraphoptWarning, match="a defect of ours") as caught:
        graph = Optimizer(go.Policy())(value.dask, ["a"])
    assert graph is value.dask
    assert len(caught) == 1
    with pytest.raises(RuntimeError, match="a defect of ours"):
        Optimizer(go.Policy(strict=True))(value.dask, ["a"])


# -- the catalogue -----------------------------------------------------------------------------------------------------

CATALOGUE: dict[str, Callable[[], Any]] = {}


def example(make: Callable[[], Any]) -> Callable[[], Any]:
    CATALOGUE[make.__name__] = make
    return make


def entry(**makes: Callable[[], Any]) -> None:
    CATALOGUE.update(makes)


def square() -> Any:
    return da.from_array(A[:30] + 30 * np.eye(30), chunks=10)


def tall() -> Any:
    return x().rechunk((10, 30))


def ints() -> Any:
    return (x() * 10).astype(int)


entry(
    diamond=lambda: da.exp(x()) - 1 / x(),
    scalars=lambda: x() * np.float32(2) + np.array(3) - True,
    where=lambda: da.where(x() > 0.5, 1, x()),
    several_ufunc_outputs=lambda: da.ufunc.frexp(x())[0],
    fancy=lambda: x()[[3, 1, 20, 39, 1]][:, [5, 4, 29]],
    strided=lambda: (x() + 1)[35:2:-3, ::2],
    points=lambda: x().vindex[[0, 1, 2], [3, 4, 29]],
    blocks=lambda: x().blocks[1:, 0] + 1,
    element=lambda: (x() + 1)[3, 4],
    index_by_array=lambda: x()[x()[:, 0].argmax()],
    take=lambda: da.take(x(), [0, 3, 3], axis=1),
    rows_by_mask=lambda: x()[x()[:, 0] > 0.5].sum(axis=0),
    unknown_sizes=lambda: (x()[x() > 0.5] * 2 + 1).sum(),
    unknown_sizes_kept=lambda: x()[x() > 0.5],
    unknown_sizes_counted=lambda: x()[x() > 0.5].compute_chunk_sizes()[3:9],
    overlap=lambda: x().map_overlap(lambda block: block + 1, depth=2, boundary="reflect"),
    overlap_of_two=lambda: da.map_overlap(lambda a, b: a + b, x(), x() + 1, depth=1, boundary="periodic"),
    svd=lambda: da.linalg.svd(tall())[1],
    svd_rebuilt=lambda: (lambda u, s, v: (u * s) @ v)(*da.linalg.svd(tall())),
    svd_compressed=lambda: da.linalg.svd_compressed(x(), 3, seed=1)[1],
    tsqr=lambda: (lambda q, r: q @ r)(*da.linalg.tsqr(tall())),
    sfqr=lambda: (lambda q, r: q @ r)(*da.linalg.sfqr(x()[:10].rechunk((10, 10)))),
    lu=lambda: (lambda p, low, up: p @ low @ up)(*da.linalg.lu(square())),
    solve=lambda: da.linalg.solve(square(), da.from_array(V[:30], chunks=10)),
    cholesky=lambda: da.linalg.cholesky(da.from_array(A.T @ A + np.eye(30), chunks=10)),
    inv=lambda: da.linalg.inv(square()),
    lstsq=lambda: da.linalg.lstsq(tall(), da.from_array(V, chunks=10))[0],
    norm=lambda: da.linalg.norm(x(), axis=1),
    fft=lambda: da.fft.fft(tall(), axis=1),
    irfft=lambda: da.fft.irfft(da.fft.rfft(tall(), axis=1), axis=1),
    masked=lambda: da.ma.masked_greater(x(), 0.5) + 1,
    masked_sum=lambda: da.ma.masked_greater(x(), 0.5).sum(),
    masked_filled=lambda: da.ma.filled(da.ma.masked_where(x() > 0.3, x()), -1.0).mean(axis=0),
    cumsum=lambda: x().cumsum(axis=0),
    cumsum_in_parallel=lambda: da.cumsum(x(), axis=0, method="blelloch"),
    cumprod=lambda: da.nancumprod(x() + 0.5, axis=1),
    histogram=lambda: da.histogram(x(), bins=5, range=(0, 1))[0],
    histogram_lazy=lambda: da.histogram(x(), bins=da.linspace(0, 1, 6, chunks=6), density=True)[0],
    histogram2d=lambda: da.histogram2d(x()[:, 0], x()[:, 1], bins=3, range=((0, 1), (0, 1)))[0],
    bincount=lambda: da.bincount(ints()[:, 0], minlength=12, weights=x()[:, 1]),
    digitize=lambda: da.digitize(x(), np.array([0.2, 0.5])),
    searchsorted=lambda: da.searchsorted(da.from_array(np.sort(V), chunks=10), x()[:, 0]),
    unique=lambda: da.unique(ints(), return_counts=True)[1],
    isin=lambda: da.isin(ints(), [1, 2]),
    topk=lambda: da.topk(x()[:, 0], 3),
    argtopk=lambda: da.argtopk(x()[:, 0], -3),
    argmax=lambda: x().argmax(axis=1),
    percentile=lambda: da.percentile(x()[:, 0], [10, 50]),
    median=lambda: da.median(x(), axis=0),
    var=lambda: x().var(axis=0, ddof=1),
    moment=lambda: x().moment(3, axis=1),
    nanmean=lambda: da.nanmean(da.where(x() > 0.5, x(), np.nan), axis=0),
    any_all=lambda: (x() > 0.99).any(axis=0) & (x() > 0).all(axis=0),
    minmax=lambda: x().max(axis=0, keepdims=True) - x().min(),
    average=lambda: da.average(x(), axis=0, weights=da.from_array(V, chunks=10)),
    corrcoef=lambda: da.corrcoef(x().T),
    cov=lambda: da.cov(x().T),
    matmul=lambda: x().T @ x(),
    matmul_of_stacks=lambda: da.matmul(da.ones((3, 4, 5), chunks=2), da.ones((3, 5, 2), chunks=2)),
    einsum=lambda: da.einsum("ij,ik->jk", x(), x()),
    tensordot=lambda: da.tensordot(x(), x(), axes=([0, 1], [0, 1])),
    outer=lambda: da.outer(x()[:, 0], x()[:, 1]),
    gufunc=lambda: da.apply_gufunc(lambda block: block.mean(-1), "(i)->()", tall()),
    along_axis=lambda: da.apply_along_axis(np.sort, 0, x().rechunk((40, 15))),
    map_blocks=lambda: da.map_blocks(np.add, x(), 1, dtype=float),
    map_blocks_new_axis=lambda: x().map_blocks(lambda block: block[None], new_axis=0, dtype=float).sum(axis=0),
    map_blocks_drop_axis=lambda: tall().map_blocks(lambda block: block.sum(1), drop_axis=1, dtype=float),
    blockwise=lambda: da.blockwise(np.add.outer, "ij", x()[:, 0], "i", x()[0], "j", dtype=float),
    blockwise_contraction=lambda: da.blockwise(
        lambda a, b: sum(p @ q for p, q in zip(a, b, strict=True)), "ik", x(), "ij", x().T, "jk", dtype=float
    ),
    reduction=lambda: da.reduction(x(), lambda b, axis, keepdims: b.sum(axis=axis, keepdims=keepdims), np.sum, dtype=float),
    rechunk=lambda: (x() + 1).rechunk((7, 11)) * 2,
    reshape=lambda: (x() + 1).reshape(-1),
    reshape_blockwise=lambda: da.reshape_blockwise(x() + 1, (1200,)),
    transpose=lambda: (x().T + 1).swapaxes(0, 1),
    stack=lambda: da.stack([x(), x() + 1]).sum(axis=0),
    concatenate=lambda: da.concatenate([x(), x()[:5]]) + 1,
    block=lambda: da.block([[x(), x()], [x(), x()]]).sum(axis=0),
    repeat_tile=lambda: da.tile(da.repeat(x(), 2, axis=0), (1, 2)),
    roll_flip=lambda: da.flip(da.roll(x(), 3, axis=0), 1),
    pad=lambda: da.pad(x(), 2, mode="wrap"),
    pad_with_mean=lambda: da.pad(x(), ((1, 2), (0, 3)), mode="mean"),
    insert_delete=lambda: da.delete(da.insert(x(), 3, 1.0, axis=0), 5, axis=0),
    coarsen=lambda: da.coarsen(np.sum, x(), {0: 2, 1: 3}),
    gradient=lambda: da.gradient(x())[0],
    diff=lambda: da.diff(x(), n=2, axis=0),
    shift_by_slices=lambda: (x()[1:] - x()[:-1]) ** 2,
    triangle=lambda: da.tril(square()) + da.triu(square(), 1),
    diagonal=lambda: da.diag(da.diagonal(square())),
    eye=lambda: da.eye(20, chunks=6) @ da.ones((20, 3), chunks=6),
    arange=lambda: da.arange(100, chunks=7) ** 2,
    linspace=lambda: da.linspace(0, 1, 100, chunks=9),
    meshgrid=lambda: da.meshgrid(da.arange(5, chunks=2), da.arange(4, chunks=3))[0] + 1,
    indices=lambda: da.indices((6, 4), chunks=3).sum(axis=0),
    fromfunction=lambda: da.fromfunction(lambda i, j: i * j, shape=(20, 20), chunks=10, dtype=float) + 1,
    full_like=lambda: da.full_like(x(), 3) + da.zeros_like(x()) + da.empty_like(x()) * 0,
    from_delayed=lambda: da.concatenate([da.from_delayed(dask.delayed(np.ones)(5), (5,), float) for _ in range(3)]) + 1,
    to_delayed=lambda: da.block([[da.from_delayed(d, (10, 15), float) for d in row] for row in (x() + 1).to_delayed()]),
    choose=lambda: da.choose(ints() % 2, [x(), x() + 1]),
    piecewise=lambda: da.piecewise(x(), [x() < 0.3, x() >= 0.3], [-1, 1]),
    select=lambda: da.select([x() < 0.3, x() < 0.6], [x(), -x()], default=9.0),
    nonzero=lambda: da.nonzero(ints() == 3)[0],
    argwhere=lambda: da.argwhere(x() > 0.9),
    count_nonzero=lambda: da.count_nonzero(ints() == 3, axis=0),
    unravel=lambda: da.unravel_index(da.arange(12, chunks=5), (3, 4))[0],
    rounding=lambda: da.round(x() * 7, 1) // 1 + da.clip(x(), 0.2, 0.8),
    real_imag=lambda: (x() + 1j * x()).conj().imag,
    zero_dimensions=lambda: x().sum() + da.from_array(np.array(3.0)),
    empty=lambda: da.from_array(np.empty((0, 3)), chunks=(1, 3)).sum(axis=0),
    empty_sliced=lambda: (x() + 1)[:0] * 2,
    one_element=lambda: da.ones((), chunks=()) + 1,
    one_big_chunk=lambda: da.from_array(A, chunks=-1) + 1,
    many_chunks=lambda: da.ones(300, chunks=1).cumsum(axis=0),
    uneven_chunks=lambda: da.from_array(V, chunks=((1, 38, 1),)).cumsum(axis=0),
    object_dtype=lambda: da.from_array(np.array([1, "a", None, 3.5], dtype=object), chunks=2),
    text=lambda: (
        da.from_array(np.array(["a", "bb", "c"]), chunks=2) + da.from_array(np.array(["x", "y", "z"]), chunks=2)
        if np.lib.NumpyVersion(np.__version__) >= "2.3.0"
        else da.from_array(np.array(["a"]), chunks=1)
    ),
    structured=lambda: da.from_array(np.zeros(10, dtype=[("a", int), ("b", float)]), chunks=3)["b"] + 1,
    dates=lambda: da.from_array(np.arange("2020-01", "2020-12", dtype="M8[M]"), chunks=3) + np.timedelta64(1, "M"),
    small_dtypes=lambda: (ints().astype("u1") + np.uint8(250)).sum(dtype="u1"),
    byte_order=lambda: (x().astype(">f8") + 1).sum(axis=0),
    fortran_order=lambda: da.from_array(np.asfortranarray(A), chunks=(10, 15)).map_blocks(np.asfortranarray) * 2,
)


@example
def assignment() -> Any:
    y = x() + 0
    y[y > 0.5] = 0
    y[3] = 7
    y[::2, 1] = da.arange(20, chunks=7)
    return y


@example
def sparse_chunks() -> Any:
    sparse = pytest.importorskip("scipy.sparse")
    return x().map_blocks(sparse.csr_array).map_blocks(lambda block: (block * 2).toarray(), dtype=float) + 1


@example
def sparse_product() -> Any:
    sparse = pytest.importorskip("scipy.sparse")
    rows = tall().map_blocks(lambda block: sparse.csr_array(block.round(0)))
    return rows.map_blocks(lambda block: block @ np.ones(30), drop_axis=1, dtype=float).sum()


@example
def sparse_sum_of_blocks() -> Any:
    sparse = pytest.importorskip("scipy.sparse")
    parts = [dask.delayed(sparse.csr_array)(A[i : i + 10].round(0)) for i in range(0, 40, 10)]
    return da.from_delayed(dask.delayed(lambda *blocks: sum(blocks).toarray())(*parts), (10, 30), float)


@example
def random_arrays() -> Any:
    rng = da.random.default_rng(5)
    return rng.normal(size=(20, 20), chunks=10) + rng.random((20, 20), chunks=10) * rng.integers(0, 9, (20, 20), chunks=10)


def compare(found: Any, expected: Any) -> None:
    assert type(found) is type(expected)
    if isinstance(expected, np.ma.MaskedArray):
        np.testing.assert_array_equal(np.ma.getmaskarray(found), np.ma.getmaskarray(expected))
        found, expected = found.filled(0), expected.filled(0)
    found, expected = np.asarray(found), np.asarray(expected)
    assert found.dtype == expected.dtype
    assert found.shape == expected.shape
    if expected.dtype.kind == "O":
        assert found.tolist() == expected.tolist()
    else:
        np.testing.assert_array_equal(found, expected)
        assert found.tobytes() == expected.tobytes(), "equal, but not the same: the sign of a zero, or another NaN"


@pytest.mark.parametrize("name", CATALOGUE)
def test_everything_computes_the_same(name: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # dask warns of chunk sizes and NumPy of empty means, in both ways of computing
        collection = CATALOGUE[name]()
        (expected,) = dask.compute(collection, scheduler="sync", optimize_graph=False)
        with go.optimized(**STRICT, parallelism=2):
            compare(collection.compute(scheduler="threads"), expected)
            compare(collection.persist(scheduler="sync").compute(scheduler="sync"), expected)
        with go.optimized(**STRICT, parallelism=1, spare=1):
            compare(collection.compute(scheduler="sync"), expected)
            keys = collection.__dask_keys__()
        graph = go.optimize(collection, keys, go.Policy(strict=True, parallelism=3))
        finish, args = collection.__dask_postcompute__()
        compare(finish(dask.get(graph, keys), *args), expected)


def test_everything_computes_the_same_together() -> None:
    """All of the catalogue as one graph."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        collections = [make() for make in CATALOGUE.values()]
        expected = dask.compute(*collections, scheduler="sync", optimize_graph=False)
        with go.optimized(**STRICT, parallelism=2):
            found = dask.compute(*collections, scheduler="threads")
    for name, one, other in zip(CATALOGUE, found, expected, strict=True):
        try:
            compare(one, other)
        except AssertionError as error:
            raise AssertionError(f"{name}: {error}") from error


# -- bags --------------------------------------------------------------------------------------------------------------


def bag() -> Any:
    return db.from_sequence(range(40), npartitions=5)


BAGS: dict[str, Callable[[], Any]] = {
    "map": lambda: bag().map(operator.add, 1).filter(lambda i: i % 3),
    "fold": lambda: bag().fold(operator.add),
    "frequencies": lambda: bag().map(operator.mod, 4).frequencies(sort=True),
    "topk": lambda: bag().topk(3),
    "var": lambda: bag().var(),
    "accumulate": lambda: bag().accumulate(operator.add),
    # Members come in the order in which the partitions were written to disk, in dask's threads any order.
    "groupby": lambda: bag().groupby(lambda i: i % 3).map(lambda group: (group[0], sorted(group[1]))),
    "foldby": lambda: bag().foldby(lambda i: i % 2, operator.add, 0),
    "join": lambda: bag().join(list(range(5)), lambda i: i % 5),
    "product": lambda: bag().product(bag()).count(),
    "flatten": lambda: bag().map(lambda i: [{"a": i}, {"a": -i}]).flatten().pluck("a"),
    "zip": lambda: db.zip(bag(), bag().map(str)).pluck(1),
    "starmap": lambda: db.zip(bag(), bag()).starmap(operator.add),
    "repartition": lambda: bag().repartition(2),
    "distinct": lambda: bag().map(operator.mod, 4).distinct(),
    "random_sample": lambda: bag().random_sample(0.5, random_state=3),
    "map_partitions": lambda: bag().map_partitions(lambda part: [sum(part)]),
    "reduction": lambda: bag().reduction(sum, sum),
    "item": lambda: bag().map(operator.add, bag().sum()),
    "take": lambda: bag().take(3, compute=False),
    "concat": lambda: db.concat([bag(), bag()]),
    "generators": lambda: db.from_delayed([dask.delayed(lambda n: (i for i in range(n)))(n) for n in range(4)]).map(abs),
    "read twice": lambda: db.map(operator.add, bag().map(operator.neg), bag().map(operator.neg)),
}


@pytest.mark.parametrize("name", BAGS)
def test_bags_compute_the_same(name: str) -> None:
    collection = BAGS[name]()
    (expected,) = dask.compute(collection, scheduler="sync", optimize_graph=False)
    for policy in (go.Policy(strict=True, parallelism=2), go.Policy(strict=True, parallelism=1, spare=1)):
        with go.optimized(policy):
            for scheduler in ("sync", "threads"):
                found = collection.compute(scheduler=scheduler)
                assert same_items(found, expected)
            again = collection.persist(scheduler="sync").compute(scheduler="sync")
        assert same_items(again, expected)


def same_items(found: Any, expected: Any) -> bool:
    """Compare results of bags; lists without regard to order, which dask leaves open where it shuffles."""
    if isinstance(expected, list):
        return bool(sorted(found) == sorted(expected))
    return type(found) is type(expected) and bool(found == expected)
