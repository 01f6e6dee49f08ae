"""Rows on disk that do not fit: a fit in a process that may have less memory than the data takes.

8e6 × 100 numbers (6.4 GB) are written in pieces, as a .npy file that is mapped into memory. A child process with at most 4 GiB
of its own (RLIMIT_DATA; pages of the file are the system's) reads the file plainly, and makes passes and a fit: from disk,
after the system was asked to drop its pages, and with as much of the file in the system's cache as stays there.

Run ``python bench/outofcore.py --folder WHERE``; the files are removed again. ``--rows`` and ``--gib`` make it smaller,
``--write`` puts the figures into docs/measured.md.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import dask
import dask.array as da
import numpy as np
from measure import machine, write_into

from solvers import fit
from solvers.families import Logistic
from solvers.objective import _slope, compiled

COLUMNS, PIECE = 100, 200_000
PAGE = Path(__file__).parent.parent / "docs" / "measured.md"


def write(folder: Path, rows: int) -> None:
    """Write rows and labels in pieces."""
    rng = np.random.default_rng(0)
    beta = rng.normal(size=COLUMNS) / 3
    X = np.lib.format.open_memmap(folder / "X.npy", "w+", float, (rows, COLUMNS))
    y = np.empty(rows)
    for start in range(0, rows, PIECE):
        piece = rng.random((min(PIECE, rows - start), COLUMNS)) - 0.5
        X[start : start + PIECE] = piece
        y[start : start + PIECE] = rng.random(len(piece)) < 1 / (1 + np.exp(-piece @ beta))
        X.flush()
    np.save(folder / "y.npy", y)


def drop(path: Path) -> None:
    """Ask the system to forget the pages of a file."""
    with path.open("rb") as file:
        os.fsync(file.fileno())
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def read(path: Path) -> None:
    """Read a file on two threads into buffers that are used again."""
    size, step = path.stat().st_size, 1 << 26

    def part(begin: int) -> None:
        buffer = memoryview(bytearray(1 << 22))
        with path.open("rb", buffering=0) as file:
            file.seek(begin)
            while file.tell() < min(begin + step, size):
                if not file.readinto(buffer):
                    break

    with ThreadPoolExecutor(2) as threads:
        list(threads.map(part, range(0, size, step)))


def own() -> float:
    """Return GiB of memory that are the process's own."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return sum(int(line.split()[1]) for line in lines if line.startswith("RssAnon")) / 2**20


def _piece(path: str, start: int, stop: int) -> np.ndarray:
    """Return rows of a file; `dask.array.from_array` would copy all of a file that is mapped."""
    return np.load(path, mmap_mode="r")[start:stop]


def child(folder: Path, gib: float) -> dict[str, Any]:
    """Read and fit within the limit, and say how fast that was."""
    resource.setrlimit(resource.RLIMIT_DATA, (int(gib * 2**30), int(gib * 2**30)))
    path = folder / "X.npy"
    labels, size = np.load(folder / "y.npy"), 50_000
    bounds = list(range(0, len(labels), size))
    graph = {("on-disk", i, 0): (_piece, str(path), start, start + size) for i, start in enumerate(bounds)}
    chunks = (tuple(min(size, len(labels) - start) for start in bounds), (COLUMNS,))
    X, y = da.Array(graph, "on-disk", chunks, dtype=float), da.from_array(labels, chunks=size)
    step, w = compiled(_slope, Logistic(), False, False), np.full(COLUMNS, 0.01)
    step(X[:size], y[:size], w, 0.0)  # compiles
    found: dict[str, Any] = {"GB": X.nbytes / 1e9}

    def timed(name: str, what: Any, cold: bool) -> None:
        if cold:
            drop(path)
        start = time.perf_counter()
        what()
        found[name] = time.perf_counter() - start
        print(f"  {name}: {found[name]:.2f} s, {found['GB'] / found[name]:.2f} GB/s", file=sys.stderr, flush=True)

    def one() -> None:
        step(X, y, w, 0.0)

    one()  # traces
    timed("reading, from disk", lambda: read(path), cold=True)
    timed("a pass, from disk", one, cold=True)
    timed("reading, cached", lambda: read(path), cold=False)
    timed("a pass, cached", one, cold=False)
    start = time.perf_counter()
    result = fit(X, y, family="logistic", solver="lbfgs", tol=1e-6, max_iter=40)
    found |= {"fit": time.perf_counter() - start, "passes": result.passes, "status": result.status.value, "own GiB": own()}
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir()))
    parser.add_argument("--rows", type=int, default=8_000_000)
    parser.add_argument("--gib", type=float, default=4.0)
    parser.add_argument("--write", action="store_true")
    parser.add_argument("--child", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        with dask.config.set(scheduler="threads"):
            print(json.dumps(child(arguments.child, arguments.gib)))
        return
    needed = 8 * COLUMNS * arguments.rows
    if shutil.disk_usage(arguments.folder).free < 1.5 * needed:
        print(f"{arguments.folder} has not {1.5 * needed / 1e9:.0f} GB: --rows, --folder. Nothing was measured.")
        return
    note = f"{machine()}, load {os.getloadavg()[0]:.1f}"
    print(note, flush=True)
    with tempfile.TemporaryDirectory(dir=arguments.folder) as name:
        write(Path(name), arguments.rows)
        command = [sys.executable, __file__, "--child", name, "--gib", str(arguments.gib)]
        found = json.loads(subprocess.run(command, stdout=subprocess.PIPE, check=True, text=True).stdout)
    lines = [f"| {found['GB']:.1f} GB, at most {arguments.gib:g} GiB of memory | seconds | GB/s |", "|---|---|---|"]
    for what in ("reading, from disk", "a pass, from disk", "reading, cached", "a pass, cached"):
        lines.append(f"| {what} | {found[what]:.2f} | {found['GB'] / found[what]:.2f} |")
    pace = found["GB"] * found["passes"] / found["fit"]
    lines.append(f"| L-BFGS, {found['passes']} passes, {found['status']} | {found['fit']:.1f} | {pace:.2f} |")
    lines += ["", f"The process held {found['own GiB']:.2f} GiB of its own at the end."]
    print("\n".join(lines))
    if arguments.write:
        write_into(PAGE, "out of core", [f"{note}.", "", *lines])


if __name__ == "__main__":
    main()
