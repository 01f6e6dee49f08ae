"""The store of the numba cache: machine code from one process in another, and files that are cut short, changed or foreign.

Processes really start and end. That the right function is called counts most: symbols of two processes may have one name.
"""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from graphopt.native import store as native
from graphopt.numba_cache import store
from graphopt.numba_cache.store import Lock, Store, opened

# Each test starts several processes that load numba: a minute and a half in all.
pytestmark = pytest.mark.slow

PROGRAM = """
import json, sys, warnings
sys.path[:0] = {path!r}
import math, numba, numpy as np
from numba_seen import seen, watch
from graphopt.numba_cache.installing import enter
from graphopt.numba_cache.process import Options, here
{before}
watch()
enter("test", Options(**{options!r}))
out = []
for text, arguments in {calls!r}:
    scope = dict(np=np, numba=numba, math=math, __name__="__main__")
    exec(text, scope)
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            found = scope["f"](*eval(arguments, scope))
        out.append(f"warned {{found}}" if any("fresh" in str(each.message) for each in caught) else found)
    except Exception as error:
        out.append(type(error).__name__)
counts = here.counts.to_dict()
print(json.dumps([out, seen(), counts["compilations"], counts["loaded"], counts["refused"]]))
"""


def elsewhere(calls: list[tuple[str, str]], before: str = "", **options: Any) -> tuple[list[Any], int, int, int]:
    """Call functions in a process of its own; return results, and how many were compiled, loaded and refused."""
    path = [str(Path(__file__).parent), str(Path(__file__).parent.parent)]
    program = PROGRAM.format(path=path, options=options, calls=calls, before=before)
    found = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=100)
    out, _, compiled, loaded, refused = json.loads(found.stdout.splitlines()[-1])
    return out, compiled, loaded, refused


#: Too large for a compiler to put it into who calls it: what calls it does so by name.
LARGE = "".join(f"        if n > {i}:\n            s += k * math.floor(math.exp(n - {i}))\n" for i in range(40))


def closure(variant: int) -> tuple[str, str]:
    """Return a function that calls another, of the same names in all variants and the same types."""
    text = (
        f"def make(k):\n    @numba.njit\n    def g(n):\n        s = 0.0\n{LARGE}        return s\n"
        "    @numba.njit\n    def f(x):\n        s = 0.0\n        for i in range(3):\n            s += g(i) + g(x)\n"
        f"        return s\n    return f\nf = make({variant}.0)\n"
    )
    return text, "(10.0,)"


def answer(variant: int) -> float:
    """Return what it returns, by Python."""
    scope: dict[str, Any] = {"math": math, "numba": SimpleNamespace(njit=lambda f: f)}
    exec(closure(variant)[0], scope)
    return float(scope["f"](10.0))


PLAIN = ("@numba.njit\ndef f(x):\n    return x + 1", "(1.0,)")


def test_the_right_function_is_called_whoever_compiled_it(tmp_path: Path) -> None:
    """Numba counts from 1 in each process for names of machine code: object code of three processes would collide."""
    where = str(tmp_path)
    for variant in (1, 2, 3):
        assert elsewhere([closure(variant)], store=where) == ([answer(variant)], 3, 0, 0)
    for order in ((1, 2, 3), (3, 1, 2)):
        out, compiled, loaded, _ = elsewhere([closure(4), *map(closure, order)], store=where)
        assert out == [answer(4), *map(answer, order)]
        assert (compiled, loaded) == ((3, 3) if order[0] == 1 else (0, 4))


def test_recursion_stays_in_its_process(tmp_path: Path) -> None:
    """What calls itself, perhaps with other types, or in a circle, is resolved by names that hold within a process."""
    alone = ("@numba.njit\ndef f(n):\n    return n if n < 2 else f(n - 1) + f(n - 2)", "(10,)")
    literal = (f"{alone[0].replace('f(', 'g(')}\n@numba.njit\ndef f():\n    return g(10)", "()")
    mutual = (
        "@numba.njit\ndef g(n):\n    if n == 0:\n        return 0\n    return f(n - 1)\n"
        "@numba.njit\ndef f(n):\n    if n == 0:\n        return 1\n    return g(n - 1)\n",
        "(7,)",
    )
    for _ in range(2):
        out, _, loaded, refused = elsewhere([alone, literal, mutual], store=str(tmp_path))
        assert out == [55, 55, 0]
        assert loaded == 0
        assert refused >= 5


def test_options_are_part_of_the_name(tmp_path: Path) -> None:
    text = "@numba.njit({})\ndef f(x, i):\n    return x[i]"
    calls = "(np.arange(3.0), 3)"
    unchecked = elsewhere([(text.format(""), "(np.arange(3.0), 1)")], store=str(tmp_path))
    assert unchecked == ([1.0], 1, 0, 0)
    assert elsewhere([(text.format("boundscheck=True"), calls)], store=str(tmp_path)) == (["IndexError"], 1, 0, 0)
    assert elsewhere([(text.format("boundscheck=True"), calls)], store=str(tmp_path)) == (["IndexError"], 0, 1, 0)


def test_arguments_of_many_types_are_found_again(tmp_path: Path) -> None:
    calls = [
        ("@numba.njit\ndef f(x, y=2.0, *rest):\n    return x + y + len(rest)", "(1,)"),
        ("@numba.njit\ndef f(x, y=2.0, *rest):\n    return x + y + len(rest)", "(1, 3.0, 'a', 2)"),
        ("@numba.njit\ndef f(x, y):\n    return x[0] + y[1][0]", "((1, 2.0), (None, (3,)))"),
        ("@numba.njit\ndef f(x):\n    return x[0].a + x[0].b", "(np.zeros(2, [('a', 'f4'), ('b', 'i8')]),)"),
        ("@numba.njit\ndef f(x):\n    return len(x)", "('text',)"),
        ("@numba.njit\ndef f(x):\n    return x.sum()", "(np.ones((4, 4))[::2, ::2],)"),
        ("@numba.njit\ndef f(g, x):\n    return g(x)\n@numba.njit\ndef g(x):\n    return x + 3", "(g, 1)"),
        ("@numba.vectorize\ndef f(x):\n    return x + 3", "(1.0,)"),
        ("@numba.njit\ndef f(n):\n    return sum([math.sqrt(i) for i in range(n)])", "(4,)"),
        ("@numba.njit\ndef f(n):\n    raise ValueError(n)", "(4,)"),
    ]
    first, compiled, loaded, refused = elsewhere(calls, store=str(tmp_path))
    assert (loaded, refused) == (0, 0)
    assert compiled >= 11
    assert elsewhere(calls, store=str(tmp_path)) == (first, 0, len(calls), 0)


def test_what_cannot_leave_a_process_is_compiled_in_each(tmp_path: Path) -> None:
    calls = [
        ("A = np.ones(1 << 18)\n@numba.njit\ndef f(i):\n    return A[i]", "(1,)"),
        ("@numba.njit(parallel=True)\ndef f(x):\n    return (x + x).sum()", "(np.ones(9),)"),
        ("@numba.jit(forceobj=True)\ndef f(x):\n    return x + 1", "(1,)"),
    ]
    for _ in range(2):
        out, compiled, loaded, refused = elsewhere(calls, store=str(tmp_path))
        assert out == [1.0, 18.0, 2]
        assert (compiled, loaded, refused) == (3, 0, 3)


@pytest.fixture
def filled(tmp_path: Path) -> Path:
    """The file of a store that holds one function."""
    assert elsewhere([PLAIN], store=str(tmp_path / "store")) == ([2.0], 1, 0, 0)
    (path,) = (tmp_path / "store").glob("*.numba")
    assert path.stat().st_mode & 0o777 == 0o600
    assert path.parent.stat().st_mode & 0o777 == 0o700
    return path


def damaged(path: Path, how: str) -> None:
    content = path.read_bytes()
    if how == "cut short":
        path.write_bytes(content[:-100])
    elif how == "empty":
        path.write_bytes(b"")
    elif how == "changed":
        path.write_bytes(content[:-100] + bytes([content[-100] ^ 1]) + content[-99:])
    elif how == "foreign":
        path.write_bytes(b"\x7fELF" + content)
    elif how == "for everybody to write":
        path.chmod(0o666)
    elif how == "for the group to write":
        path.chmod(0o660)
    elif how == "a link":
        path.rename(path.parent / "elsewhere")
        path.symlink_to(path.parent / "elsewhere")


@pytest.mark.parametrize(
    "how", ["cut short", "empty", "changed", "foreign", "for everybody to write", "for the group to write", "a link"]
)
def test_a_file_that_is_not_sound_is_refused_and_compiled_again(filled: Path, how: str) -> None:
    damaged(filled, how)
    assert elsewhere([PLAIN], store=str(filled.parent)) == ([2.0], 1, 0, 0)
    assert elsewhere([PLAIN], store=str(filled.parent)) == ([2.0], 0, 1, 0), "and is sound again"


def test_a_sound_file_with_nonsense_in_it_is_compiled_again(filled: Path) -> None:
    Store(filled.parent, 1 << 20).keep(filled.stem, b"nonsense")
    assert elsewhere([PLAIN], store=str(filled.parent)) == ([2.0], 1, 0, 0)


def test_with_a_secret_only_signed_files_are_used(filled: Path) -> None:
    where = str(filled.parent)
    assert elsewhere([PLAIN], store=where, secret=b"one") == ([2.0], 1, 0, 0)
    assert elsewhere([PLAIN], store=where, secret=b"one") == ([2.0], 0, 1, 0)
    assert elsewhere([PLAIN], store=where, secret=b"two") == ([2.0], 1, 0, 0)
    assert elsewhere([PLAIN], store=where) == ([2.0], 1, 0, 0)


def test_the_debug_mode_finds_wrong_machine_code(filled: Path) -> None:
    other = ("@numba.njit\ndef f(x):\n    return x + 2", "(1.0,)")
    elsewhere([other], store=str(filled.parent))
    (wrong,) = set(filled.parent.glob("*.numba")) - {filled}
    kept = Store(filled.parent, 1 << 20)
    kept.keep(filled.stem, kept.found(wrong.stem) or b"")
    assert elsewhere([PLAIN], store=str(filled.parent))[0] == [3.0], "as it must not be, and cannot be without malice"
    assert elsewhere([PLAIN], store=str(filled.parent), debug=True)[0] == ["warned 2.0"]


def test_a_full_disk_costs_nothing_but_time(tmp_path: Path) -> None:
    before = "import resource, signal\nsignal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
    before += "resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))"
    assert elsewhere([PLAIN], before, store=str(tmp_path)) == ([2.0], 1, 0, 0)
    assert not list(tmp_path.iterdir())


def test_a_folder_that_cannot_be_made_costs_nothing_but_time(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    assert elsewhere([PLAIN], store=str(tmp_path / "file" / "store")) == ([2.0], 1, 0, 0)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_that_cannot_be_written_costs_nothing_but_time(tmp_path: Path) -> None:
    (tmp_path / "store").mkdir(mode=0o500)
    assert elsewhere([PLAIN], store=str(tmp_path / "store")) == ([2.0], 1, 0, 0)


def test_a_folder_that_is_gone_costs_nothing_but_time(tmp_path: Path) -> None:
    kept = opened(str(tmp_path / "store"), 1 << 20, b"")
    assert kept is not None
    kept.folder.rmdir()
    assert not kept.keep("name", b"content")
    assert kept.found("name") is None
    with_lock = kept.lock("name", 1.0)
    assert not with_lock.held
    with_lock.close()
    assert kept.size() == 0


@pytest.mark.parametrize("mode", [0o777, 0o770])
def test_a_folder_that_others_may_write_to_is_refused(tmp_path: Path, mode: int, caplog: Any) -> None:
    tmp_path.chmod(mode)
    assert opened(str(tmp_path), 1, b"") is None
    assert "not ours alone" in caplog.text
    assert (opened(str(tmp_path), 1, b"secret") is None) == (mode == 0o777), "a group may share a folder of signed files"


def test_what_belongs_to_somebody_else_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kept = opened(str(tmp_path), 1 << 20, b"")
    assert kept is not None
    kept.keep("name", b"content")
    assert kept.found("name") == b"content"
    monkeypatch.setattr(native.os, "geteuid", lambda: 12_345_678)
    assert kept.found("name") is None
    assert opened(str(tmp_path), 1 << 20, b"") is None


def test_the_store_does_not_grow_without_end(tmp_path: Path) -> None:
    kept = Store(tmp_path, 5000)
    for i in range(20):
        kept.keep(f"name{i:02}", bytes(900))
        os.utime(tmp_path / f"name{i:02}.numba", (i, i))
        if i >= 3:
            assert kept.found("name03") is not None, "what was used last stays"
        assert kept.size() <= 5000
    assert kept.found("name00") is None
    assert kept.found("name19") is not None


def test_a_file_under_another_name_is_refused(tmp_path: Path) -> None:
    kept = Store(tmp_path, 5000)
    kept.keep("one", b"content")
    (tmp_path / "one.numba").rename(tmp_path / "two.numba")
    assert kept.found("two") is None
    assert not list(tmp_path.iterdir())


def test_a_lock_is_held_by_one_and_given_up_in_time(tmp_path: Path) -> None:
    first = Lock(tmp_path / "a.lock", 1.0)
    assert first.held
    second = Lock(tmp_path / "a.lock", 0.05)
    assert not second.held
    second.close()
    first.close()
    third = Lock(tmp_path / "a.lock", 1.0)
    assert third.held
    third.close()
    assert not list(tmp_path.iterdir())


def test_what_dead_processes_left_is_tidied(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("one.lock", "two.part"):
        (tmp_path / name).write_text("")
        os.utime(tmp_path / name, (0, 0))
    (tmp_path / "new.lock").write_text("")
    assert opened(str(tmp_path), 1, b"") is not None
    assert [path.name for path in tmp_path.iterdir()] == ["new.lock"]
    assert store._LEFT_BEHIND > 60


def test_graphopts_own_kernels_come_from_the_store(tmp_path: Path) -> None:
    own = ("from graphopt.granularity.kernel import busy as f", "(3, 4)")
    assert elsewhere([own], store=str(tmp_path)) == ([4], 1, 0, 0)
    assert elsewhere([own], store=str(tmp_path)) == ([4], 0, 1, 0)
