"""Formula: how a number is computed from the numbers among the arguments, in a form that travels.

While a function is traced a number is stood in for by a `Scalar`, which refuses to be pickled, lest one slip into a task.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from graphopt.standins import Scalar

__all__ = ["Formula", "formula_of"]


@dataclass(frozen=True, slots=True)
class Formula:
    """A call of a function on numbers and other formulas; without a function it is the argument of this token."""

    token: str
    func: Callable[..., Any] | None = None
    args: tuple[Any, ...] = ()
    kwargs: tuple[tuple[str, Any], ...] = ()

    def __call__(self, given: Mapping[str, Any]) -> Any:
        """Compute it from the arguments, by token."""
        if self.func is None:
            return given[self.token]
        return self.func(*[_value(arg, given) for arg in self.args], **{name: _value(arg, given) for name, arg in self.kwargs})


def _value(value: Any, given: Mapping[str, Any]) -> Any:
    return value(given) if isinstance(value, Formula) else value


def formula_of(value: Any) -> Any:
    """Return the formula of a stand-in; anything else as it is."""
    if type(value) is not Scalar:
        return value
    kwargs = tuple([(name, formula_of(arg)) for name, arg in value.kwargs.items()])
    return Formula(value.token, value.func, tuple(map(formula_of, value.args)), kwargs)
