"""Picture: what the candidates of a search share on each fold, as a tree that is read from left to right."""

from __future__ import annotations

import os
import textwrap
from collections.abc import Sequence

from solvers.search.account import Savings

__all__ = ["draw", "places"]

_ENDINGS = (".svg", ".png")
_WIDTH, _HEIGHT = 2.4, 0.55  # of a place for a box, in inches


def places(befores: Sequence[int | None]) -> list[tuple[float, float]]:
    """Return where boxes stand, given which each follows: a column further to the right, in the middle of those that follow it.

    Examples
    --------
    >>> places([None, 0, 0])
    [(1.0, 0.5), (2.0, 0.0), (2.0, 1.0)]
    """
    depth: list[int] = []
    for before in befores:
        depth.append(1 if before is None else depth[before] + 1)
    after: list[list[int]] = [[] for _ in befores]
    for i, before in enumerate(befores):
        if before is not None:
            after[before].append(i)
    height, free = [0.0] * len(befores), 0
    order = sorted((i for i, before in enumerate(befores) if before is None), reverse=True)
    done: list[int] = []
    while order:  # each after what follows it
        i = order[-1]
        todo = [k for k in after[i] if k not in done]
        if todo:
            order += reversed(todo)
            continue
        order.pop()
        done.append(i)
        if after[i]:
            height[i] = sum(height[k] for k in after[i]) / len(after[i])
        else:
            height[i] = float(free)
            free += 1
    return [(float(x), y) for x, y in zip(depth, height, strict=True)]


def draw(savings: Savings, filename: str | os.PathLike[str]) -> None:
    """Draw it, as SVG or PNG by the ending of the name of the file."""
    name = os.fspath(filename)
    if not name.endswith(_ENDINGS):
        raise ValueError(f"filename={name!r}: must end in {' or '.join(_ENDINGS)}.")
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError("visualize needs matplotlib: pip install matplotlib.") from error
    at = places([one.before for one in savings.shared])
    rows = (0.0, sum(y for _, y in at if _ == 1.0) / max(1, sum(x == 1.0 for x, _ in at)))
    size = max([x for x, _ in at], default=0.0) + 1.0, max([y for _, y in at], default=0.0) + 1.0
    figure = Figure(figsize=(max(4.0, size[0] * _WIDTH), size[1] * _HEIGHT + 0.8))
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set(xlim=(-0.5, size[0] - 0.5), ylim=(size[1] - 0.4, -1.4))
    axes.axis("off")
    fits = f"{sum(savings.plain.values())} fits in a plain search, {sum(savings.done.values())} done"
    axes.set_title(f"{savings.candidates} candidates, {savings.folds} folds: {fits}", y=0.9, fontsize=10)
    style = {"ha": "center", "va": "center", "fontsize": 8}
    box = {"boxstyle": "round", "facecolor": "white", "edgecolor": "black"}
    for one, (x, y) in zip(savings.shared, at, strict=True):
        start = rows if one.before is None else at[one.before]
        axes.plot([start[0], x], [start[1], y], color="0.6", linewidth=1, zorder=0)
        text = textwrap.shorten(one.estimator, 32, placeholder="...")
        style_of = {"linestyle": "dashed"} if one.lost else {}
        axes.text(x, y, f"{one.name}, for {one.candidates}\n{text}", bbox={**box, **style_of}, **style)  # type: ignore[arg-type]
    axes.text(*rows, "rows of\na fold", bbox=box, **style)  # type: ignore[arg-type]
    figure.savefig(name, dpi=110, bbox_inches="tight")
