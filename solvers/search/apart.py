"""Apart: fits that must not run at a time in one process.

liblinear has one generator of random numbers for all threads, and each fit seeds it. Two at a time draw from one sequence, and
end somewhere within their tolerance, but not where their ``random_state`` says. scikit-learn's searches run in processes, where
that does not come up. So on threads one fit waits for the other.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Mapping
from typing import Any

from sklearn.svm import LinearSVC, LinearSVR

__all__ = ["apart"]

#: A fit may hold a search, in the same thread.
_ONE = threading.RLock()


def apart(estimator: Any, params: Mapping[str, Any] | None = None) -> contextlib.AbstractContextManager[Any]:
    """Return what an estimator is to be fitted in, with parameters that it will have.

    Examples
    --------
    >>> from sklearn.linear_model import LogisticRegression
    >>> apart(LogisticRegression())
    <contextlib.nullcontext object at ...>
    >>> apart(LogisticRegression(solver="liblinear"))
    <unlocked _thread.RLock object ...>
    """
    values = [estimator, *(params or {}).values()]
    for value in list(values):
        if hasattr(value, "get_params") and not isinstance(value, type):
            values += value.get_params(deep=True).values()
    return _ONE if any(map(_is_liblinear, values)) else contextlib.nullcontext()


def _is_liblinear(value: Any) -> bool:
    return isinstance(value, (LinearSVC, LinearSVR)) or (isinstance(value, str) and value == "liblinear")
