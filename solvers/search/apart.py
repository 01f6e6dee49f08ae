"""Apart: each fit that runs beside others has random numbers of its own, also where a library keeps them for a whole process.

liblinear and libsvm have one generator each for all threads, and each fit seeds it. Two fits at a time draw from one sequence,
and end somewhere within their tolerance, but not where their ``random_state`` says. scikit-learn's searches run in processes,
where that does not come up. Here a fit that calls such a library while another one does is given a copy: the same file, loaded
once more from another place, with variables of its own. That takes 5 ms for each thread, once; processes would cost a start of
a second each, and rows would have to be sent to them.

Where no copy can be loaded, one fit waits for the other.
"""

from __future__ import annotations

import contextlib
import importlib.util
import queue
import shutil
import tempfile
import threading
from collections.abc import Iterator, Mapping
from typing import Any

from sklearn.svm import _base as caller

__all__ = ["apart"]

#: Where scikit-learn calls them. They go together: what holds one may ask for the next, and would wait for it in a circle.
_NAMES = tuple(name for name in ("liblinear", "libsvm", "libsvm_sparse") if hasattr(caller, name))

#: Sets of libraries that no fit holds. The first is the one that all others use; that of a fit is taken by its first call.
_FREE: queue.LifoQueue[Mapping[str, Any]] = queue.LifoQueue()
_FREE.put({name: getattr(caller, name) for name in _NAMES})

_HERE = threading.local()


class _Library:
    """Stands in scikit-learn for a library; to a fit that is to be apart it is the one that the fit holds."""

    def __init__(self, name: str, shared: Any) -> None:
        self.name, self.shared = name, shared

    def __getattr__(self, attribute: str) -> Any:
        library = self.shared
        if getattr(_HERE, "fits", False):
            if _HERE.held is None:
                _HERE.held = _taken()
            library = _HERE.held[self.name]
        return getattr(library, attribute)


for _name in _NAMES:
    setattr(caller, _name, _Library(_name, getattr(caller, _name)))


@contextlib.contextmanager
def apart() -> Iterator[None]:
    """Keep the random numbers of what is fitted inside, in this thread, from those of all other threads that are in here.

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> from sklearn.svm import LinearSVC
    >>> with apart():
    ...     fitted = LinearSVC(random_state=0).fit(*load_iris(return_X_y=True))
    """
    if getattr(_HERE, "fits", False):  # a fit may hold a search, in the same thread
        yield
        return
    _HERE.fits, _HERE.held = True, None
    try:
        yield
    finally:
        _HERE.fits = False
        if _HERE.held is not None:
            _FREE.put(_HERE.held)


def _taken() -> Mapping[str, Any]:
    """Return libraries that nobody else has."""
    with contextlib.suppress(queue.Empty):
        return _FREE.get_nowait()
    with contextlib.suppress(Exception):  # no room, or a place that code may not be run from
        return _copied()
    return _FREE.get()


def _copied() -> Mapping[str, Any]:
    """Return the libraries, loaded once more. A loader knows a file by its place and number, so it must be another file."""
    out = {}
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:  # some systems keep what is loaded
        for name in _NAMES:
            module = getattr(caller, name).shared
            spec = importlib.util.spec_from_file_location(module.__name__, shutil.copy(module.__file__, folder))
            if spec is None or spec.loader is None:
                raise ImportError(f"nothing loads {module.__file__}")
            out[name] = importlib.util.module_from_spec(spec)
            spec.loader.exec_module(out[name])
    return out
