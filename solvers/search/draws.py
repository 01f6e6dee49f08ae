"""Draws: find out whether a fit drew random numbers.

With ``random_state=None`` each fit draws anew, and fits of what would be different draws must not be shared. But most
estimators that have the parameter draw only under some settings, or for some shapes: PCA does for large matrices. Whether
they do is known only afterwards. So a fit that is to be shared gets a `Watched` generator in place of None. If nobody touched
it, the fit is what any other would be, and shared. If somebody did, it is thrown away and each candidate fits its own.
"""

from __future__ import annotations

from typing import Any

import numpy as np

__all__ = ["Watched"]

#: Its methods, and pickling: who has a copy may draw unseen.
_USES = {name for name in dir(np.random.RandomState) if not name.startswith("_")} | {
    "__reduce__",
    "__reduce_ex__",
    "_bit_generator",
}


class Watched(np.random.RandomState):
    """A generator that remembers whether it was used; a copy, as `clone` makes one, is itself.

    Examples
    --------
    >>> from copy import deepcopy
    >>> watched = Watched()
    >>> deepcopy(watched) is watched, watched.used
    (True, False)
    >>> n = watched.randint(10)
    >>> watched.used
    True
    """

    used = False

    def __getattribute__(self, name: str) -> Any:
        if name in _USES:
            self.__dict__["used"] = True
        return super().__getattribute__(name)

    def __deepcopy__(self, memo: Any) -> Watched:
        return self

    def __copy__(self) -> Watched:
        return self
