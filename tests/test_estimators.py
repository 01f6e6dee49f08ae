"""Estimators: scikit-learn's own checks, its answers on its own data, and the same from whatever dask has."""

from __future__ import annotations

from typing import Any

import pytest
from sklearn.utils.estimator_checks import parametrize_with_checks

from solvers import estimators

ALL = [getattr(estimators, name) for name in estimators.__all__]


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
@parametrize_with_checks([kind(tol=1e-9) for kind in ALL])
def test_scikit_learns_own_checks(estimator: Any, check: Any) -> None:
    check(estimator)
