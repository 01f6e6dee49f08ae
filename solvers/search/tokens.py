"""Tokens: what an estimator is, as a hash of its class and parameters, so that equal ones are known to be equal.

What is fitted is a clone, so parameters are all there is to an estimator, together with what `clone` copies beside them: the
output container and the metadata requests. Equal tokens mean equal fits. Where that is in doubt a token is new each time it is
asked for: such a fit is shared with none. In doubt is

- a ``random_state`` that is a generator: each fit has a copy of its own;
- an object that has a ``random_state`` of that kind inside, or that cannot be pickled.

A ``random_state`` of None is no doubt yet: see `solvers.search.draws`.
"""

from __future__ import annotations

import pickle
import types
import uuid
from typing import Any

import numpy as np
from dask.base import tokenize
from sklearn.base import BaseEstimator

__all__ = ["draws", "is_fixed", "token"]

_PLAIN = (type(None), bool, int, float, complex, str, bytes, np.generic, type(Ellipsis))
_BY_NAME = (type, types.FunctionType, types.BuiltinFunctionType, types.MethodType, np.ufunc)


def token(value: Any) -> Any:
    """Return something hashable that is equal for equal estimators or parameters.

    Parameters
    ----------
    value
        An estimator or a parameter of one.

    Examples
    --------
    >>> from sklearn.decomposition import PCA
    >>> token(PCA(2)) == token(PCA(2)), token(PCA(2)) == token(PCA(3))
    (True, False)
    >>> state = np.random.RandomState(0)
    >>> token(PCA(2, random_state=state)) == token(PCA(2, random_state=state))
    False
    """
    kind = id(type(value))  # a class is itself; its name may be that of another
    if isinstance(value, _PLAIN):
        return kind, repr(value) if isinstance(value, (float, complex, np.generic)) else value
    if isinstance(value, _BY_NAME):
        return "object", id(value)  # a copy of one is itself, and the search holds it
    if isinstance(value, (list, tuple)):
        return kind, tuple(token(item) for item in value)
    if type(value) is dict:
        return kind, tuple((token(key), token(item)) for key, item in value.items())
    if isinstance(value, np.ndarray) and value.dtype != object:
        return kind, tokenize(value)
    if hasattr(value, "get_params"):
        return _of_estimator(value)
    return _of_object(value)


def _of_estimator(value: Any) -> Any:
    kind = type(value)
    if getattr(kind, "__sklearn_clone__", None) is not getattr(BaseEstimator, "__sklearn_clone__", None):
        return "object", id(value)  # a clone of it may be itself, with what it was fitted to
    params = value.get_params(deep=False)
    beside = value.__dict__.get("_sklearn_output_config"), value.__dict__.get("_metadata_request")
    return id(kind), tuple((name, token(params[name])) for name in sorted(params)), *map(_of_beside, beside)


def _of_beside(value: Any) -> Any:
    return None if value is None else token(repr(value))


def _of_object(value: Any) -> Any:
    if isinstance(value, (np.random.RandomState, np.random.Generator)) or getattr(value, "random_state", 0) in (None,):
        return uuid.uuid4()
    if isinstance(getattr(value, "random_state", 0), np.random.RandomState):
        return uuid.uuid4()
    try:
        return id(type(value)), pickle.dumps(value)
    except Exception:
        return uuid.uuid4()


def draws(estimator: Any) -> list[str]:
    """Return the parameters of an estimator that may make each of its fits a draw of its own: each ``random_state`` of None.

    Examples
    --------
    >>> from sklearn.decomposition import PCA
    >>> draws(PCA()), draws(PCA(random_state=0))
    (['random_state'], [])
    """
    params = estimator.get_params(deep=True)
    return [name for name, value in params.items() if value is None and name.rpartition("__")[2] == "random_state"]


def is_fixed(estimator: Any) -> bool:
    """Say whether equal fits of an estimator are the same: no ``random_state`` is None or a generator."""
    params = estimator.get_params(deep=True) if hasattr(estimator, "get_params") else {"random_state": None}
    return all(isinstance(value, int) for name, value in params.items() if name.rpartition("__")[2] == "random_state")
