"""The picture of a plan: the tasks behind one of its calls, as dask would run them, and all calls that are made instead."""

from __future__ import annotations

import os
import textwrap
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from dask.utils import key_split

from graphopt.graph import dependencies, is_constant, read, toposort
from graphopt.plan import Plan
from graphopt.report.boxes import Box, draw_graph
from graphopt.report.errors import CommandError, import_extra
from graphopt.report.layers import Point, layered
from graphopt.schedule import Group
from graphopt.types import Graph, Key

__all__ = ["visualize"]

ENDINGS = (".svg", ".png")
MOST_TASKS = 40  # of one call; more cannot be read
MOST_BOXES = 9  # in a row
LABEL_WIDTH = 20
LETTER, LINE, ROW, MARGIN = 0.072, 0.13, 0.5, 0.35  # inches
DPI, MOST_DOTS = 110, 30_000
STYLE = {"font.size": 9, "svg.fonttype": "none", "svg.hashsalt": "graphopt"}  # text stays text; the same file each time


@dataclass(frozen=True, slots=True)
class Panel:
    """One of the two drawings; ``rows`` are labels for some of the heights."""

    title: str
    boxes: Sequence[Box]
    routes: Sequence[Sequence[Point]]
    rows: Mapping[float, str]

    @property
    def size(self) -> tuple[float, float]:
        """Width and height in inches, such that no label touches the next."""
        lines = [line for box in self.boxes for line in box.label.split("\n")]
        tall = max([box.label.count("\n") for box in self.boxes], default=0)
        xs, ys = zip(*self._points(), strict=True)
        wide = (max(xs) - min(xs) + 1.2) * (max(map(len, lines), default=0) * LETTER + 0.35)
        title = max(map(len, self.title.split("\n"))) * LETTER * 1.15
        return max(wide, title), (max(ys) - min(ys) + 1) * (ROW + LINE * tall)

    def _points(self) -> list[Point]:
        return [*[box.point for box in self.boxes], *[point for route in self.routes for point in route], (0.0, 0.0)]


def visualize(plan: Plan, filename: str | os.PathLike[str]) -> None:
    """Draw a plan, as SVG or PNG by the ending of the name of the file.

    Raises
    ------
    ValueError
        If the name ends otherwise.
    ImportError
        If matplotlib is not installed; the message names the extra.
    """
    path = os.fspath(filename)
    ending = os.path.splitext(path)[1].lower()
    if ending not in ENDINGS:
        raise ValueError(f"plan.visualize({path!r}): the name of the file must end in {' or '.join(ENDINGS)}.")
    try:
        matplotlib, figures = import_extra("matplotlib", "plots"), import_extra("matplotlib.figure", "plots")
    except CommandError as error:
        raise ImportError(f"plan.visualize: {error}") from error
    panels = [_before(plan), _after(plan)]
    widths, heights = zip(*[panel.size for panel in panels], strict=True)
    left = [MARGIN, 2 * MARGIN + widths[0] + 0.6]  # room for the names of the levels
    width, high = left[1] + widths[1] + MARGIN, max(heights)
    heading = textwrap.wrap(str(plan), int(width / LETTER / 1.3))
    height = high + 0.9 + 0.2 * len(heading) + MARGIN
    with matplotlib.rc_context(STYLE):
        figure = figures.Figure(figsize=(width, height))  # not pyplot: the backend is the user's choice
        figure.text(MARGIN / width, 1 - 0.2 / height, "\n".join(heading), va="top", fontsize=11, parse_math=False)
        for panel, x, wide, tall in zip(panels, left, widths, heights, strict=True):
            bottom = MARGIN + high - tall
            _draw(figure.add_axes((x / width, bottom / height, wide / width, tall / height)), panel)
        plain = {"Date": None} if ending == ".svg" else {}
        figure.savefig(path, format=ending[1:], dpi=min(DPI, MOST_DOTS / max(width, height)), metadata=plain)


def _draw(axes: Any, panel: Panel) -> None:
    draw_graph(axes, panel.boxes, panel.routes)
    axes.set_title(panel.title, loc="left", fontsize=10, parse_math=False)
    left = axes.get_xlim()[0]
    for y, name in panel.rows.items():
        axes.text(left, y, name, ha="right", va="center", fontsize=8, style="italic")


# -- before ------------------------------------------------------------------------------------------------------------


def _before(plan: Plan) -> Panel:
    """The tasks behind the first call of the kernel that replaces most of them."""
    graph, _ = read(plan.trace.graph, [key for result in plan.trace.results for key in result.keys], merge_layers=False)
    graph = {key: node for key, node in graph.items() if key not in plan.trace.slots}
    order = toposort(graph)
    key_of = {slot: key for key, slot in plan.schedule.slots.items()}
    found: tuple[float, Group, list[Key], set[Key]] | None = None
    for group in [group for level in plan.levels for group in level.groups]:
        lane = group.lanes[0]
        wanted = [key_of[slot] for slot in lane.writes if key_of.get(slot) in graph]
        own = _behind(graph, wanted, {key_of.get(slot) for slot in lane.reads})
        whole = _behind(graph, wanted, ())
        readable = len(whole) <= MOST_TASKS
        seen = whole if readable else own
        # what fits the picture before what does not, kernels that we wrote before folds, and then by tasks in all lanes
        score = len(group.lanes) * len(seen) + 1e9 * (len(seen) <= MOST_TASKS) + 1e6 * (group.traced is not None)
        if seen and (found is None or score > found[0]):
            found = score, group, [key for key in order if key in seen], own
    if found is None:
        return Panel("before: no tasks", (), (), {})
    _, group, keys, own = found
    title = f"before: the {len(keys)} tasks behind one of {len(group.lanes)} calls of {group.name}"
    if len(keys) > MOST_TASKS:
        title = title.replace(f"the {len(keys)}", f"{MOST_TASKS} of {len(keys)}")
        keys = keys[:MOST_TASKS]
    title += "\ngrey: data" + ("; broken outline: tasks of other calls" if not own.issuperset(keys) else "")
    return _tasks(plan, graph, keys, own, title)


def _behind(graph: Graph, wanted: Iterable[Key], given: Collection[Key | None]) -> set[Key]:
    """The tasks that the wanted ones depend on, themselves among them, as far back as what is given or is data."""
    seen: set[Key] = set()
    stack = list(wanted)
    while stack:
        key = stack.pop()
        if key in graph and key not in seen and key not in given and not is_constant(graph[key]):
            seen.add(key)
            stack += dependencies(graph[key])
    return seen


def _tasks(plan: Plan, graph: Graph, keys: Sequence[Key], own: Collection[Key], title: str) -> Panel:
    """Tasks as boxes, with what they read."""
    reads = {key: dependencies(graph[key]) for key in keys}
    data = [dep for dep in dict.fromkeys(dep for key in keys for dep in sorted(reads[key], key=str)) if dep not in reads]
    place = {key: i for i, key in enumerate([*data, *keys])}
    edges = sorted((place[dep], place[key]) for key in keys for dep in reads[key])
    points, routes = layered(len(place), edges)
    names = [_name(plan, key) if key in data else key_split(key) for key in place]
    boxes = [
        Box(_wrapped(name), point, data=key in data, elsewhere=key in reads and key not in own)
        for key, name, point in zip(place, names, points, strict=True)
    ]
    return Panel(title, boxes, routes, {})


def _name(plan: Plan, key: Key) -> str:
    """What a piece of data is called: blocks by their place, unless an argument has only one."""
    if key not in plan.trace.slots or not isinstance(key, tuple):
        return str(key_split(key))
    argument, _ = plan.trace.slots[key]
    several = sum(place == argument for place, _ in plan.trace.slots.values()) > 1
    return f"{key_split(key)}[{', '.join(map(str, key[1:]))}]" if several else str(key_split(key))


# -- after -------------------------------------------------------------------------------------------------------------


@dataclass(slots=True)
class _Node:
    """A box of the plan: what it reads and writes, and in which row it stands."""

    label: str
    row: int
    reads: set[int]
    writes: set[int]
    data: bool = False


def _after(plan: Plan) -> Panel:
    """All calls: a row for each level, a box for each kernel in it."""
    last = len(plan.levels) + 1
    groups = [node for number, level in enumerate(plan.levels) for node in _row(level.groups, number + 1)]
    results = [
        _Node(f"result{f' {i}' if len(plan.results) > 1 else ''}: {_blocks(len(slots))}", last, set(slots), set(), data=True)
        for i, slots in enumerate(plan.results)
        if slots
    ]
    nodes = [*_arguments(plan, [*groups, *results]), *groups, *results]
    edges = [(i, j) for j, node in enumerate(nodes) for i, other in enumerate(nodes[:j]) if _feeds(other, node)]
    points, routes = layered(len(nodes), edges, [node.row for node in nodes])
    boxes = [Box(_wrapped(node.label), point, data=node.data) for node, point in zip(nodes, points, strict=True)]
    rows = {-1.0 - number: f"level {number}" for number in range(len(plan.levels))}
    return Panel("after: the calls of the plan, n x kernel\ncalls of one level may run at once", boxes, routes, rows)


def _feeds(one: _Node, other: _Node) -> bool:
    near = not one.data or one.row == other.row - 1
    return near and not one.writes.isdisjoint(other.reads)


def _row(groups: Sequence[Group], row: int) -> list[_Node]:
    """The boxes of one level; folds and other nodes of dask's share one, and so does what is too much for a row."""
    found: dict[Any, tuple[str, list[Group]]] = {}
    for group in groups:
        kind = group.name if group.traced is None else id(group.kernel)
        found.setdefault(kind, (group.name, []))[1].append(group)
    parts = sorted(found.values(), key=lambda part: -_calls(part[1]))
    shown, rest = (parts, []) if len(parts) <= MOST_BOXES else (parts[: MOST_BOXES - 1], parts[MOST_BOXES - 1 :])
    if rest:
        shown = [*shown, (f"{len(rest)} other kernels", [group for _, part in rest for group in part])]
    return [_node(f"{_calls(part)} x {name}", row, part) for name, part in shown]


def _calls(groups: Sequence[Group]) -> int:
    return sum(len(group.lanes) for group in groups)


def _node(label: str, row: int, groups: Sequence[Group]) -> _Node:
    lanes = [lane for group in groups for lane in group.lanes]
    return _Node(label, row, {slot for lane in lanes for slot in lane.reads}, {slot for lane in lanes for slot in lane.writes})


def _arguments(plan: Plan, readers: Sequence[_Node]) -> list[_Node]:
    """The arrays that are given, in the row above each that reads them: arrows through all rows could not be followed."""
    slots: dict[int, set[int]] = {}
    names: dict[int, str] = {}
    for key, (place, _) in plan.trace.slots.items():
        names[place] = key_split(key)
        if key in plan.schedule.slots:
            slots.setdefault(place, set()).add(plan.schedule.slots[key])
    nodes: list[_Node] = []
    for row in sorted({node.row for node in readers}):
        read: set[int] = set().union(*[node.reads for node in readers if node.row == row])
        parts = [(names[place], given & read) for place, given in slots.items() if given & read]
        if len(parts) > MOST_BOXES:
            rest = parts[MOST_BOXES - 1 :]
            parts = [*parts[: MOST_BOXES - 1], (f"{len(rest)} other arguments", set().union(*[given for _, given in rest]))]
        nodes += [_Node(f"{name}: {_blocks(len(given))}", row - 1, set(), given, data=True) for name, given in parts]
    return nodes


def _blocks(count: int) -> str:
    return f"{count} block{'s' if count > 1 else ''}"


def _wrapped(label: str) -> str:
    """A label in short lines; names break after underscores and hyphens."""
    if len(label) <= LABEL_WIDTH:
        return label
    lines = [""]
    for part in label.replace("_", "_\0").replace("-", "-\0").replace(" ", " \0").split("\0"):
        if lines[-1] and len(lines[-1]) + len(part) > LABEL_WIDTH:
            lines.append("")
        lines[-1] += part
    return "\n".join(line.rstrip() for line in lines)
