"""The numba cache in one process: what has one key and what has another, what is frozen, what is refused, what stays behind.

Surprises first. Nothing here measures time; ``bench/numba_cache.py`` does. The file is long because each surprise is a test,
and they share how functions are made anew.
"""

from __future__ import annotations

import itertools
import logging
import math
import os
import pickle
import types
import warnings
from collections import namedtuple
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import cloudpickle
import numba
import numpy as np
import pytest
from dask.base import tokenize
from numba_seen import loss_and_derivative, seen, typed, ufunc, watch

import graphopt as go
from graphopt.numba_cache import private, selftest, ship, shipping
from graphopt.numba_cache.codes import Unkeyable
from graphopt.numba_cache.compiling import settle
from graphopt.numba_cache.installing import enter, leave
from graphopt.numba_cache.process import Objects, Options, here


@pytest.fixture
def installed() -> Iterator[None]:
    """The cache in this process; a test may forget what is in it with `forget`."""
    assert not enter("test", Options())
    yield
    leave("test")


def forget() -> None:
    """Let go of all functions that pickles are looked up in."""
    private.Memo._memo.clear()
    private.Memo._recent._kept.clear()


def there(function: Any) -> Any:
    """Return what arrives in another process."""
    data = cloudpickle.dumps(function)
    forget()
    return pickle.loads(data)


def key(function: Any) -> str:
    return str(function._uuid)


def random(name: str) -> bool:
    """Say whether a name is numba's own."""
    return len(name) == 36


def written(text: str, **scope: Any) -> Any:
    """Return the function ``f`` of a text, compiled by numba; its globals are a dictionary of its own."""
    scope = {"np": np, "math": math, "numba": numba, "__name__": "__main__", **scope}
    exec(text, scope)
    return scope["f"] if hasattr(scope["f"], "py_func") else numba.njit(scope["f"])


PLAIN = "def f(x):\n    return x + K\n"


# -- one key or another --------------------------------------------------------------------------------------------------------


def scaled(factor: Any, **options: Any) -> Any:
    @numba.njit(**options)
    def f(x: Any) -> Any:
        return x * factor

    return f


@pytest.mark.parametrize(
    ("make", "other"),
    [
        (lambda: scaled(2.0), lambda: scaled(3.0)),
        (lambda: scaled(0.0), lambda: scaled(-0.0)),
        (lambda: scaled(1), lambda: scaled(1.0)),
        (lambda: scaled(1), lambda: scaled(True)),
        (lambda: scaled(2.0), lambda: scaled(np.float64(2.0))),
        (lambda: scaled(np.arange(3)), lambda: scaled(np.arange(4))),
        (lambda: scaled(np.arange(3.0)), lambda: scaled(np.arange(3))),
        (lambda: scaled(np.eye(3)), lambda: scaled(np.asfortranarray(np.eye(3)))),
        (lambda: scaled(2.0), lambda: scaled(2.0, fastmath=True)),
        (lambda: scaled(2.0), lambda: scaled(2.0, fastmath={"nnan"})),
        (lambda: scaled(2.0), lambda: scaled(2.0, boundscheck=True)),
        (lambda: scaled(2.0), lambda: scaled(2.0, error_model="numpy")),
        (lambda: scaled(2.0), lambda: scaled(2.0, locals={"x": numba.float32})),
        (lambda: scaled(scaled(1.0)), lambda: scaled(scaled(2.0))),
        (lambda: scaled(scaled(1.0)), lambda: scaled(scaled(1.0, fastmath=True))),
        (lambda: scaled((1, 2)), lambda: scaled((1, (2,)))),
        (lambda: scaled(("ab", "c")), lambda: scaled(("a", "bc"))),
        (lambda: written(PLAIN, K=1), lambda: written(PLAIN, K=2)),
        (lambda: written("def f(x, y=1):\n    return x + y"), lambda: written("def f(x, y=2):\n    return x + y")),
        (lambda: written("def f(x):\n    return x + 1"), lambda: written("def f(x):\n    return x + 1.0")),
        (lambda: written("def f(x):\n    return np.sin(x)"), lambda: written("def f(x):\n    return np.cos(x)")),
        (lambda: written("def f(x):\n    return g(x)", g=np.sin), lambda: written("def f(x):\n    return g(x)", g=np.cos)),
        (lambda: written("def f(x):\n    return g(x)", g=math.sin), lambda: written("def f(x):\n    return g(x)", g=np.sin)),
        (lambda: written(PLAIN, K=np.float32), lambda: written(PLAIN, K=np.float64)),
        (lambda: typed(1.0), lambda: typed(2.0)),
        (lambda: numba.njit("f8(f8)")(scaled(2.0).py_func), lambda: numba.njit("f4(f4)")(scaled(2.0).py_func)),
        (lambda: scaled(ufunc(1.0)), lambda: scaled(ufunc(2.0))),
    ],
)
def test_equal_content_has_one_key_and_other_content_another(
    installed: None, make: Callable[[], Any], other: Callable[[], Any]
) -> None:
    assert key(make()) == key(make())
    assert not random(key(make()))
    assert key(make()) != key(other())
    assert tokenize(make()) == tokenize(make()), "dask knows it again too"


def test_where_it_is_written_does_not_count(installed: None) -> None:
    assert key(written(PLAIN, K=1)) == key(written("\n\n# moved down\n" + PLAIN, K=1))


def test_what_a_module_holds_counts(installed: None) -> None:
    module = types.ModuleType("settings_of_mine")
    module.K, module.other = 1, 1  # type: ignore[attr-defined]
    text = "def f(x):\n    return x + m.K"
    before = key(written(text, m=module))
    module.other = 2  # type: ignore[attr-defined]
    assert key(written(text, m=module)) == before, "what is not asked for does not"
    module.K = 2  # type: ignore[attr-defined]
    assert key(written(text, m=module)) != before


def test_the_salt_counts() -> None:
    keys = []
    for salt in ("", "overloads 2"):
        enter("test", Options(salt=salt))
        keys.append(key(scaled(2.0)))
        leave("test")
    assert keys[0] != keys[1]


class Anything:
    pass


@numba.experimental.jitclass([("x", numba.float64)])
class Boxed:
    def __init__(self) -> None:
        self.x = 1.0


class OwnCompiler(numba.core.compiler.CompilerBase):  # type: ignore[misc]
    def define_pipelines(self) -> Any:
        return [numba.core.compiler.DefaultPassBuilder.define_nopython_pipeline(self.state)]


@pytest.mark.parametrize(
    "make",
    [
        lambda: scaled(Anything()),
        lambda: scaled([1, 2]),
        lambda: scaled(Boxed),
        lambda: scaled(np.array([None])),
        lambda: scaled(2.0, pipeline_class=OwnCompiler),
        lambda: scaled(namedtuple("Local", "a")(1)),
    ],
)
def test_what_cannot_be_told_is_named_by_numba(installed: None, make: Callable[[], Any]) -> None:
    function, other = make(), make()
    assert random(key(function))
    assert key(function) != key(other)
    assert key(function) == key(function)


def test_a_function_around_one_without_a_key_has_one(installed: None) -> None:
    inner = scaled(Anything())
    assert key(scaled(inner)) == key(scaled(inner))
    assert not random(key(scaled(inner)))


# -- what arrives --------------------------------------------------------------------------------------------------------------


def test_a_closure_made_anew_is_compiled_once(installed: None) -> None:
    watch()
    data = np.linspace(-1, 1, 10)
    answers = set()
    for _ in range(5):
        epoch, derivative = map(there_without_forgetting, loss_and_derivative(2.0))
        answers.add(epoch(data, derivative))
    assert len(answers) == 1
    assert seen() == {"epoch": 1, "derivative": 1}


def there_without_forgetting(function: Any) -> Any:
    return pickle.loads(cloudpickle.dumps(function))


def test_a_global_that_changes_after_the_first_pickling_is_frozen(installed: None) -> None:
    function = written(PLAIN, K=1)
    first = cloudpickle.dumps(function)
    function.py_func.__globals__["K"] = 2
    second = cloudpickle.dumps(function)
    for data in (first, second):
        forget()
        assert pickle.loads(data)(10) == 11, "one name is one function, wherever it arrives"
    assert there(written(PLAIN, K=2))(10) == 12, "made anew it is another"


def test_arrays_and_cells_are_frozen_too(installed: None) -> None:
    array = np.arange(3.0)
    function = written("def f():\n    return A.sum()", A=array)
    cloudpickle.dumps(function)
    array[:] = 100.0
    assert there(function)() == 3.0
    assert there(written("def f():\n    return A.sum()", A=array))() == 300.0


def test_recursion(installed: None) -> None:
    text = "@numba.njit\ndef f(n):\n    return n if n < 2 else f(n - 1) + f(n - 2)"
    assert key(written(text)) == key(written(text))
    assert there(written(text))(10) == 55


def test_functions_that_call_each_other_are_left_to_numba(installed: None) -> None:
    text = (
        "@numba.njit('i8(i8)')\ndef g(n):\n    return 0 if n == 0 else f(n - 1)\n"
        "@numba.njit('i8(i8)')\ndef f(n):\n    return 1 if n == 0 else g(n - 1)\n"
    )
    text = text.replace("'i8(i8)'", "")
    text = text.replace("njit()", "njit")
    function = written(text)
    assert there(function)(7) == written(text)(7) == 0


def test_typed_functions_arrive_typed(installed: None) -> None:
    function = there(typed(1.0))
    assert function(2) == 3.0
    assert len(function.signatures) == 1
    with pytest.raises(TypeError, match="No matching definition"):
        function("text")


def test_a_function_that_compiles_no_more_does_not_stop_its_equals(installed: None) -> None:
    function, equal = scaled(2.0), scaled(2.0)
    function(1)
    open_still = cloudpickle.dumps(equal)
    forget()
    arrived = pickle.loads(open_still)
    function.disable_compile()
    pickle.loads(cloudpickle.dumps(function))
    assert arrived(1.5) == 3.0


def test_eight_threads_make_each_function_once(installed: None) -> None:
    data = [cloudpickle.dumps(scaled(float(i))) for i in range(20)]
    forget()
    with ThreadPoolExecutor(8) as threads:
        found = list(threads.map(pickle.loads, data * 8))
    assert len({id(function) for function in found}) == 20
    watch()
    with ThreadPoolExecutor(8) as threads:
        assert sorted(threads.map(lambda function: function(1.0), found)) == sorted([float(i) for i in range(20)] * 8)
    assert seen() == {"f": 20}


def test_ten_thousand_functions_are_not_kept(installed: None) -> None:
    for i in range(10_000):
        there_without_forgetting(scaled(float(i)))
    assert len(private.Memo._recent) <= 512
    assert len(private.Memo._memo) <= 512 + 10


def test_what_was_used_last_is_kept(installed: None) -> None:
    private.Memo._recent.maxlen = 3
    data = [cloudpickle.dumps(scaled(float(i))) for i in range(4)]
    forget()
    first = id(pickle.loads(data[0]))
    for each in (1, 2, 0, 3):
        pickle.loads(data[each])
    assert id(pickle.loads(data[0])) == first
    assert len(private.Memo._recent) == 3


# -- what stays behind ---------------------------------------------------------------------------------------------------------


def hooked() -> list[Any]:
    """Return all that is changed while the cache is installed."""
    owners = (private.Dispatcher, private.UFuncDispatcher, private.Memo, private.FunctionIdentity)
    names = {"_uuid", "_reduce_states", "_rebuild", "compile", "_compile_core", "_recent", "_unique_ids", "_compile_for_args"}
    return [(owner, name, vars(owner)[name]) for owner in owners for name in sorted(names) if name in vars(owner)]


def test_uninstalling_leaves_no_trace() -> None:
    before = hooked()
    enter("one", Options(debug=True))
    enter("two", Options())
    assert hooked() != before
    leave("one")
    assert here.on, "as long as anybody holds it"
    leave("two")
    assert hooked() == before
    assert not here.on


def test_a_function_that_was_pickled_before_keeps_its_name() -> None:
    function = scaled(2.0)
    before = key(function)
    enter("test", Options())
    assert key(function) == before
    leave("test")


def test_numba_stays_as_it_is_where_the_self_test_fails(monkeypatch: pytest.MonkeyPatch, caplog: Any) -> None:
    before = hooked()
    monkeypatch.setattr(private, "NullCache", object)
    with caplog.at_level(logging.WARNING, "graphopt"), pytest.warns(go.GraphoptWarning, match="leaves numba as it is"):
        assert "no attribute" in enter("test", Options())
    assert hooked() == before
    assert there_without_forgetting(scaled(2.0))(3.0) == 6.0
    leave("test")


def test_numba_stays_as_it_is_where_the_round_trip_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    from graphopt.numba_cache import installing

    before = hooked()
    enter("test", Options())
    monkeypatch.setattr(selftest, "round_trip", lambda: "a simple function returned 8")
    with pytest.warns(go.GraphoptWarning, match="returned 8"):
        installing._warm()
    assert hooked() == before
    leave("test")


def test_the_self_test_passes_here() -> None:
    assert not selftest.names()
    enter("test", Options())
    assert not selftest.round_trip()
    leave("test")
    assert not here.on
    assert "0.68.1" in selftest.TESTED


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork")
def test_a_forked_process_gives_other_names(installed: None) -> None:
    function = scaled(2.0)
    assert function(1.0) == 2.0
    expected = next(private.FunctionIdentity._unique_ids) + 1
    read, write = os.pipe()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # this process has threads; the child starts none
        child = os.fork()
    if child == 0:
        number = next(private.FunctionIdentity._unique_ids)
        sound = number != expected and number >= 1 << 62 and there_without_forgetting(scaled(2.0))._uuid == function._uuid
        os.write(write, b"1" if sound else b"0")
        os._exit(0)
    os.waitpid(child, 0)
    assert os.read(read, 1) == b"1"
    assert next(private.FunctionIdentity._unique_ids) == expected


# -- stricter keys, of machine code --------------------------------------------------------------------------------------------


def test_what_changes_between_two_compilations_is_not_stored(installed: None) -> None:
    function = written(PLAIN, K=1)
    assert function(1) == 2
    known = settle(function)
    assert isinstance(known, str)
    assert settle(function) == known
    function.py_func.__globals__["K"] = 5
    assert function(1.0) == 6.0, "numba's own answer"
    assert isinstance(settle(function), Unkeyable)
    assert isinstance(settle(written("def f(x):\n    return g(x)", g=function)), Unkeyable), "nor what calls it"


def test_what_was_compiled_before_is_not_stored() -> None:
    inner = scaled(2.0)
    assert inner(1.0) == 2.0
    enter("test", Options())
    assert isinstance(settle(inner), Unkeyable)
    assert isinstance(settle(scaled(inner)), Unkeyable)
    leave("test")


def test_large_arrays_and_ufuncs_stay_in_their_process(installed: None) -> None:
    assert not random(key(scaled(np.zeros(1 << 18))))
    assert isinstance(settle(scaled(np.zeros(1 << 18))), Unkeyable)
    assert isinstance(settle(scaled(ufunc(1.0))), Unkeyable)


# -- ship ----------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("on", [False, True])
def test_ship_compiles_at_the_first_call(on: bool) -> None:
    if on:
        enter("test", Options())
    shipped = ship(ufunc(3.0))
    assert shipped == ship(shipped)
    assert tokenize(shipped) == tokenize(ship(shipped))
    data = pickle.dumps(shipped)
    shipping._MADE.clear()
    watch()
    arrived = [pickle.loads(data) for _ in range(8)]
    assert seen() == {}
    with ThreadPoolExecutor(8) as threads:
        assert list(threads.map(lambda each: each(2.0, 5.0), arrived)) == [13.0] * 8
    assert seen() == {"shifted": 1}
    if on:
        assert ship(ufunc(3.0)).key == shipped.key
        leave("test")


def test_ship_refuses_what_it_does_not_know() -> None:
    with pytest.raises(TypeError, match="ship takes what"):
        ship(np.sin)


def test_shipped_functions_are_not_kept_without_end() -> None:
    enter("test", Options(functions=4))
    for i in range(10):
        ship(scaled(float(i)))
    assert len(shipping._MADE) <= 4
    leave("test")


def test_object_code_that_is_held_is_bounded() -> None:
    objects = Objects(room=100)
    for i in itertools.chain(range(50), range(10)):
        objects.add(str(i), bytes(i))
        objects._check()
    assert objects.get("9") == bytes(9)
    assert objects.get("45") is None
