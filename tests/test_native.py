"""Machine code without numba: what is compiled, kept, loaded and refused, in processes that really start and die."""

from __future__ import annotations

import json
import os
import shutil
import stat
import subprocess
import sys
import textwrap
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from graphopt.native import Counts, NotNative, Unit, compiled, counts, load, store

SUM = """
def run(at, n, out):
    x, y = view(np.float64, at, n), view(np.float64, out, 1)
    y[0] = 0.0
    for i in range(n):
        y[0] += FACTOR * x[i]
"""
MODULES = {"vectors": "graphopt.loops.vectors"}


def unit(factor: float) -> Unit:
    """Return a unit that adds up numbers, each times a factor."""
    text = "view = vectors.array_at\n" + SUM.replace("FACTOR", repr(factor))
    return Unit(text, MODULES, arguments=3, also=("graphopt.loops.sizes",))


def total(factor: float, x: np.ndarray) -> float:
    """Run it."""
    out = np.empty(1)
    assert compiled(unit(factor))(x.ctypes.data, len(x), out.ctypes.data) == 0
    return float(out[0])


@pytest.fixture
def kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A store of its own for a test."""
    monkeypatch.setenv("GRAPHOPT_STORE", str(tmp_path / "store"))
    return tmp_path / "store"


@pytest.fixture(autouse=True)
def forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is known in the process when a test begins."""
    monkeypatch.setattr(load, "_FOUND", type(load._FOUND)())


PROGRAM = """
    import json, sys
    sys.path[:0] = {path!r}
    import numpy as np
    import test_native
    before = "numba" in sys.modules
    found = test_native.total({factor!r}, np.arange(5.0))
    counts = test_native.counts()
    print(json.dumps([found, counts.built, counts.loaded, before or "numba" in sys.modules]))
"""


def elsewhere(factor: float, **environ: str) -> list[Any]:
    """Run it in a process of its own; return the result, how many were built and loaded, and whether numba was loaded."""
    program = textwrap.dedent(PROGRAM).format(path=[str(Path(__file__).parent)], factor=factor)
    found = subprocess.run(
        [sys.executable, "-c", program],
        env={**os.environ, **environ},
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
    )
    return list(json.loads(found.stdout.splitlines()[-1]))


def test_a_process_compiles_once_and_the_next_one_never(kept: Path) -> None:
    assert elsewhere(2.0) == [20.0, 1, 0, False], "another process compiles"
    assert elsewhere(2.0) == [20.0, 0, 1, False], "nobody compiles"
    assert elsewhere(3.0) == [30.0, 1, 0, False], "another text is another key"
    assert len(list(kept.glob("*.so"))) == 2
    assert not list(kept.glob("*.part"))


def test_numba_settings_are_part_of_the_key(kept: Path) -> None:
    assert elsewhere(2.0)[1:3] == [1, 0]
    assert elsewhere(2.0, NUMBA_CPU_NAME="generic", NUMBA_CPU_FEATURES="")[1:3] == [1, 0]


def test_a_process_without_a_linker_compiles_by_itself(kept: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    assert elsewhere(2.0, PATH=str(tmp_path / "empty")) == [20.0, 1, 0, True]
    assert not list(kept.glob("*.so"))


def test_a_store_that_is_off_keeps_nothing() -> None:
    for _ in range(2):
        assert elsewhere(2.0, GRAPHOPT_STORE="off") == [20.0, 1, 0, False]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_that_cannot_be_written_keeps_nothing(kept: Path) -> None:
    kept.mkdir(mode=0o500)
    assert elsewhere(2.0) == [20.0, 1, 0, False]


def test_a_store_in_a_place_that_is_no_folder_keeps_nothing(kept: Path) -> None:
    kept.write_text("a file")
    assert elsewhere(2.0) == [20.0, 1, 0, False]


@pytest.mark.parametrize("damage", ["truncated", "other bytes", "for everybody", "folder for everybody", "a link"])
@pytest.mark.slow
def test_what_is_not_as_it_was_written_is_compiled_again(kept: Path, damage: str, tmp_path: Path) -> None:
    assert elsewhere(2.0)[1:3] == [1, 0]
    (file,) = kept.glob("*.so")
    content = file.read_bytes()
    if damage == "truncated":
        file.write_bytes(content[: len(content) // 2])
    elif damage == "other bytes":
        file.write_bytes(content[:-1] + b"?")
    elif damage == "for everybody":
        file.chmod(0o666)
    elif damage == "a link":
        shutil.move(file, tmp_path / "elsewhere.so")
        file.symlink_to(tmp_path / "elsewhere.so")
    else:
        kept.chmod(0o777)
    assert elsewhere(2.0)[:3] == [20.0, 1, 0]
    if damage != "folder for everybody":
        assert elsewhere(2.0)[:3] == [20.0, 0, 1], "it was replaced"
        assert [path.read_bytes()[:4] for path in kept.glob("*.so")] == [b"\x7fELF"] or sys.platform != "linux"


def test_files_are_the_users_own(kept: Path) -> None:
    elsewhere(2.0)
    assert stat.S_IMODE(kept.stat().st_mode) == 0o700
    assert {stat.S_IMODE(file.stat().st_mode) for file in kept.iterdir()} == {0o600}


def test_the_store_is_bounded(kept: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store, "_ROOM", 2_500)
    for i in range(4):
        path = store.kept(f"{i:032}", bytes(1_000))
        assert path is not None
        os.utime(path, (i, i))
    assert sorted(path.name[:32] for path in kept.glob("*.so")) == [f"{i:032}" for i in (2, 3)]


@pytest.mark.slow
def test_two_processes_at_once(kept: Path) -> None:
    with ThreadPoolExecutor(3) as pool:
        found = list(pool.map(elsewhere, [2.0, 2.0, 2.0]))
    assert [each[0] for each in found] == [20.0] * 3
    assert len(list(kept.glob("*.so"))) >= 1


def test_a_child_that_dies_is_started_again(kept: Path) -> None:
    x = np.arange(5.0)
    assert total(4.0, x) == 40.0
    process = load._CHILD._process
    assert process is not None
    process.kill()
    assert total(5.0, x) == 50.0
    assert load._CHILD._process is not process


def test_a_program_that_python_is_part_of_is_not_started(kept: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    load._CHILD.end()
    monkeypatch.setattr(sys, "executable", "/usr/bin/editor")
    with pytest.raises(load.NoChild, match="'/usr/bin/editor' is not Python"):
        load._CHILD.library("", {}, 1, "")


def test_threads_compile_a_unit_once(kept: Path) -> None:
    before = counts()
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda _: total(6.0, np.arange(5.0)), range(16)))
    assert found == [60.0] * 16
    assert counts() == Counts(before.built + 1, before.loaded)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("def run(at):\n    return open(at)", "numba cannot compile it"),
        ("def run(at):\n    np.empty(at)[0] = 1", "it would need .*NRT.* of numba at run time"),
        ("def run(at):\n    print(at)", "of numba at run time"),
    ],
)
def test_what_cannot_stand_alone_is_refused(kept: Path, text: str, why: str) -> None:
    with pytest.raises(NotNative, match=why):
        compiled(Unit(text))


def test_what_cannot_stand_alone_is_refused_here_too(kept: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(load._CHILD, "library", _no_child)
    assert total(7.0, np.arange(5.0)) == 70.0
    with pytest.raises(NotNative, match="numba cannot compile it"):
        compiled(Unit("def run(at):\n    return open(at) + 1"))


def _no_child(*_: Any) -> None:
    raise load.NoChild("there is none")
