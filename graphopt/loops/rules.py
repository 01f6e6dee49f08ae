"""Rules: how a call of each kind of function becomes nodes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol, cast

import numpy as np

from graphopt import lean
from graphopt.loops.flatten import Call
from graphopt.loops.nodes import ROWS, Const, Node, Operand, Refused, pattern
from graphopt.loops.vocabulary import ARGUMENTS, BOOLEAN, CONTRACTIONS, MAPS, REDUCTIONS, is_view, method_of, name_of, ufunc_of

__all__ = ["apply"]

_OF_INTEGERS = frozenset(name for name, (_, binds) in MAPS.items() if binds < 20) - {"reciprocal"} | frozenset(
    ("positive", "absolute", "maximum", "minimum", "sign", "square", "invert")
)
_SUM_OPTIONS = {"axis", "dtype", "keepdims"}


class Lowering(Protocol):
    """What the rules need of their caller."""

    def before(self, func: Any, args: list[Any], options: dict[str, Any], name: str) -> Operand: ...
    def run(self, func: Any, args: Sequence[Any], options: Mapping[str, Any], which: int) -> Any: ...
    def seen(self, func: Any, args: Sequence[Any], options: Mapping[str, Any]) -> Any: ...


def apply(low: Lowering, call: Call, args: list[Any], options: dict[str, Any]) -> Node:
    """Lower a call that depends on the lane."""
    func = call.func
    if func is lean.reduce_blocks:
        return _of_one_block(low, call, args, options)
    if is_view(func):
        return _view(low, call, args, options)
    for what, functions in REDUCTIONS.items():
        if any(func is one for one in functions) or method_of(func) == what:
            return _reduce(low, call, what, args, options)
    for one, axes_of in CONTRACTIONS:
        if func is one:
            return _contract(low, call, axes_of, args, options)
    for one, sign in ARGUMENTS:
        if func is one:
            return _argument(low, call, sign, args, options)
    if not all(isinstance(arg, (Node, Const)) for arg in args):
        raise Refused(f"{name_of(func)} takes a list")
    ufunc = ufunc_of(func)
    if ufunc is not None and not options:
        return _map(low, ufunc, func, args, call.name)
    if func is np.where and len(args) == 3 and not options:
        return _where(low, args, call.name)
    if func is np.clip and not options and len(args) == 3:
        return _clip(low, args, call.name)
    if method_of(func) == "astype":
        return _astype(low, call, args, options)
    more = f" with {', '.join(options)}" if options else ""
    raise Refused(f"no loop is written for {name_of(func)}{more}")


def made(op: str, dtype: np.dtype[Any], shape: tuple[int, ...], args: Sequence[Operand], name: str, **more: Any) -> Node:
    """Make a node with its samples."""
    few, many = (tuple(rows if size == ROWS else size for size in shape) for rows in (3, 5))
    node = Node(op, dtype, shape, tuple(args), name, samples=(np.ones(few, dtype), np.ones(many, dtype)), **more)
    if op == "map":
        for arg in args:
            if pattern(arg, node) is None:
                raise Refused(f"{name} combines columns with other columns")
    return node


# -- number by number --------------------------------------------------------------------------------------------------


def _map(low: Lowering, ufunc: np.ufunc, func: Any, args: list[Operand], name: str) -> Node:
    if ufunc.nin != len(args) or ufunc.nout != 1:
        raise Refused(f"no loop is written for {name_of(func)}")
    dtype, shape = low.seen(func, args, {})
    kinds = tuple(map(_kind, args))
    try:
        *inside, out = ufunc.resolve_dtypes((*kinds, None))
    except TypeError as error:
        raise Refused(f"{name_of(func)} does not take these dtypes") from error
    if out != dtype:
        raise Refused(f"this NumPy gives {name_of(func)} the dtype {dtype}")
    for arg, inner in zip(args, inside, strict=True):
        if isinstance(arg, Node) and _kind(arg) is int and inner.kind in "iu" and inner.itemsize < 8:
            raise Refused(f"{name_of(func)} takes a Python number that {inner} may not hold")
    text = _text(ufunc.__name__, tuple(inside), args, func)
    if text is None:
        raise Refused(f"no loop is written for {name_of(func)} of {', '.join(str(kind) for kind in inside)}")
    truth = [np.dtype("?")] * len(args)
    return made("map", dtype, shape, args, name, text=text, inside=tuple(truth if "logical" in ufunc.__name__ else inside))


def _text(name: str, inside: tuple[np.dtype[Any], ...], args: list[Operand], func: Any) -> tuple[str, int] | None:
    """Return the text of a ufunc's loop over these dtypes."""
    if name == "power":
        return _power(inside, args[1], func)
    kinds = {dtype.kind for dtype in inside}
    if kinds == {"b"}:
        return BOOLEAN.get(name)
    if kinds != {"f"} and name not in _OF_INTEGERS:
        return None
    if name == "invert":
        return "~{0}", 11
    return MAPS.get(name)


def _power(inside: tuple[np.dtype[Any], ...], exponent: Operand, func: Any) -> tuple[str, int] | None:
    if inside[0].kind != "f":
        return None
    if isinstance(exponent, Const) and np.ndim(exponent.value) == 0:
        power = float(exponent.value)
        # NumPy takes the square root for this, from some version on also where it is called by name.
        if power == 0.5 and np.isnan(func(np.array([-np.inf]), 0.5)[0]):
            return MAPS["sqrt"]
        exact = {1.0: MAPS["positive"], 2.0: MAPS["square"], 3.0: ("vector.cube({0})", 20), -1.0: MAPS["reciprocal"]}
        if power in exact:
            return exact[power]
    return MAPS["power"]


def _kind(arg: Operand) -> Any:
    """Return the dtype with which an operand takes part in promotion; int or float for a Python number."""
    sample = arg.samples[0] if isinstance(arg, Node) else arg.value
    if type(sample) in (int, float):
        return type(sample)
    if isinstance(sample, (bool, np.generic)) or (isinstance(sample, np.ndarray) and isinstance(arg, Node)):
        return np.asarray(sample).dtype
    raise Refused(f"a step takes a {type(sample).__name__}")


def _where(low: Lowering, args: list[Operand], name: str) -> Node:
    dtype, shape = low.seen(np.where, args, {})
    for arg in args:
        _kind(arg)
    return made("map", dtype, shape, args, name, text=("{1} if {0} else {2}", 1), inside=(np.dtype("?"), dtype, dtype))


def _clip(low: Lowering, args: list[Operand], name: str) -> Node:
    dtype, _ = low.seen(np.clip, args, {})
    node = cast("Node", args[0])
    for ufunc, bound in ((np.maximum, args[1]), (np.minimum, args[2])):
        if not (isinstance(bound, Const) and bound.value is None):
            node = _map(low, ufunc, ufunc, [node, bound], name)
    if node.dtype != dtype:
        raise Refused("np.clip changes the dtype")
    return node


def _astype(low: Lowering, call: Call, args: list[Any], options: dict[str, Any]) -> Node:
    dtype, shape = low.seen(call.func, args, options)
    return _cast(args[0], dtype, shape, call.name)


def _cast(node: Node, dtype: np.dtype[Any], shape: tuple[int, ...], name: str) -> Node:
    if node.dtype.kind == "f" and dtype.kind in "iu":
        raise Refused("numbers with a fraction become integers")
    return node if node.dtype == dtype and node.shape == shape else made("map", dtype, shape, [node], name, inside=(dtype,))


# -- shapes ------------------------------------------------------------------------------------------------------------


def _only(args: list[Any], options: Mapping[str, Any], name: str) -> Node:
    """Return the one node among the arguments, which comes first, alone or as a list."""
    first = args[0] if args else None
    while isinstance(first, (list, tuple)) and len(first) == 1:
        first = first[0]
    if not isinstance(first, Node) or any(not isinstance(value, Const) for value in (*args[1:], *options.values())):
        raise Refused(f"{name} takes more than one array")
    return first


def _numbered(node: Node, rows: int) -> np.ndarray:
    """Return an array of a node's shape that counts its numbers in the order in which they are kept."""
    others = tuple(size for size in node.shape if size != ROWS)
    if not node.rows:
        return np.arange(node.columns).reshape(others)
    return np.moveaxis(np.arange(rows * node.columns).reshape(rows, *others), 0, node.shape.index(ROWS))


def _view(low: Lowering, call: Call, args: list[Any], options: dict[str, Any]) -> Node:
    name = name_of(call.func)
    node = _only(args, options, name)
    dtype, shape = low.seen(call.func, args, options)
    counter = Node("lane", np.dtype("i8"), node.shape, samples=(_numbered(node, 3), _numbered(node, 5)))
    takes: list[Any] = [[counter] if isinstance(args[0], (list, tuple)) else counter, *args[1:]]
    if isinstance(args[0], (list, tuple)) and isinstance(args[0][0], (list, tuple)):
        raise Refused(f"{name} takes nested lists")
    picked: Any = None
    for which, rows in enumerate((3, 5)):
        found = np.asarray(low.run(call.func, takes, options, which))
        if node.rows:
            if ROWS not in shape:
                raise Refused(f"{name} picks rows")
            found = np.moveaxis(found, shape.index(ROWS), 0).reshape(rows, -1)
            expected = np.arange(rows)[:, None] * node.columns + found[0]
        else:
            found, expected = found.ravel(), np.arange(node.columns)
        if found.shape != expected.shape or (found != expected).any():
            raise Refused(f"{name} changes the order of what is in a row, or of the rows")
        picked = found[0] if node.rows else found
    if np.array_equal(picked, np.arange(node.columns)):
        return made("view", dtype, shape, [node], call.name)
    if (np.diff(picked) != 1).any():
        raise Refused(f"{name} picks columns that are not side by side")
    return made("columns", dtype, shape, [node], call.name, extra=int(picked[0]))


def _of_one_block(low: Lowering, call: Call, args: list[Any], options: dict[str, Any]) -> Node:
    """Lower a reduction over a list of blocks, of which there must be one."""
    reduce, blocks, *_ = [*args, *([options["blocks"]] if "blocks" in options else [])]
    if not isinstance(reduce, Const) or not isinstance(blocks, (list, tuple)) or len(blocks) != 1:
        raise Refused("several blocks are joined")
    func, more = reduce.value, {name: value for name, value in options.items() if name not in ("axes", "blocks")}
    while hasattr(func, "func") and hasattr(func, "keywords"):
        more = {**{name: Const(value) for name, value in func.keywords.items()}, **more}
        func = func.func
    if not isinstance(blocks[0], Node):
        raise Refused("blocks are joined in several directions")
    return apply(low, Call(func, (), {}, call.name), [blocks[0]], more)


# -- along axes --------------------------------------------------------------------------------------------------------


def _reduce(low: Lowering, call: Call, what: str, args: list[Any], options: dict[str, Any]) -> Node:
    name = name_of(call.func)
    node = _only(args, options, name)
    given = dict(zip(("axis", "dtype") if what == "sum" else ("axis",), args[1:], strict=False))
    given.update(options)
    if not _SUM_OPTIONS.issuperset(given) or len(args) > 3:
        raise Refused(f"no loop is written for {name} with these options")
    dtype, shape = low.seen(call.func, args, options)
    axis = given["axis"].value if "axis" in given else None
    ndim = len(node.shape)
    axes = set(range(ndim)) if axis is None else {one % ndim for one in (axis if isinstance(axis, tuple) else (axis,))}
    real = {place for place, size in enumerate(node.shape) if size not in (1, ROWS)}
    folds_rows = node.rows and node.shape.index(ROWS) in axes
    if what in ("sum", "mean"):
        node = _cast(node, dtype, node.shape, call.name)
    if what in ("any", "all"):
        node = _cast(node, dtype, node.shape, call.name)
    if real & axes and real - axes and (folds_rows or max(real - axes) > min(real & axes)):
        raise Refused(f"{name} runs along some axes of a row and not along later ones")
    whole = bool(real & axes)
    if not folds_rows and not whole:
        return made("view", dtype, shape, [node], call.name)
    if not node.rows:
        raise Refused(f"{name} folds what is folded already")
    sign = {"max": 1, "any": 1, "min": -1, "all": -1}.get(what)
    op = ("" if folds_rows else "row_") + ("most" if sign else "sum")
    needs = folds_rows and what in ("max", "min")
    out = made(op, dtype, shape, [node], call.name, extra=sign, needs_rows=needs)
    if what != "mean":
        return out
    if dtype.kind != "f":
        raise Refused(f"{name} gives {dtype}")
    count = " * ".join([*(["rows"] * folds_rows), *([str(node.columns // out.columns)] * whole)])
    divided = ("{0} / " + (f"np.{dtype.name}({count})"), 10)
    return made("map", dtype, shape, [out], call.name, text=divided, inside=(dtype,))


def _argument(low: Lowering, call: Call, sign: int, args: list[Any], options: dict[str, Any]) -> Node:
    """Lower the search for the place of the greatest or the least number of each row."""
    name = name_of(call.func)
    node = _only(args, options, name)
    dtype, shape = low.seen(call.func, args, options)
    given = dict(zip(("axis", "offset_info"), args[1:], strict=False)) | options
    if not given.keys() <= {"axis", "offset_info", "keepdims"}:
        raise Refused(f"no loop is written for {name} with these options")
    axis = given["axis"].value if "axis" in given else None
    axes = axis if isinstance(axis, tuple) else (axis,)
    real = [place for place, size in enumerate(node.shape) if size not in (1, ROWS)]
    if len(axes) != 1 or axes[0] is None or real != [axes[0] % len(node.shape)] or not node.rows:
        raise Refused(f"{name} does not run along the rows")
    found = made("row_place", dtype, shape, [node], call.name, extra=sign)
    first = given["offset_info"].value if "offset_info" in given else 0
    if not first:
        return found
    return made("map", dtype, shape, [found, Const(first)], call.name, text=MAPS["add"], inside=(dtype, dtype))


def _contract(
    low: Lowering, call: Call, axes_of: Callable[..., tuple[int, int] | None], args: list[Any], options: dict[str, Any]
) -> Node:
    name = name_of(call.func)
    a, b, *rest = args
    if not isinstance(a, Node) or not isinstance(b, Node):
        raise Refused(f"{name} takes what is no array")
    more = {key: value.value for key, value in options.items() if isinstance(value, Const)}
    if more.get("is_sparse") or len(more) < len(options) or max(len(a.shape), len(b.shape)) > 2 or not a.shape or not b.shape:
        raise Refused(f"no loop is written for {name} of these arguments")
    dtype, shape = low.seen(call.func, args, options)
    axes = axes_of(a.samples[0], b.samples[0], *[value.value for value in rest], **more)
    if axes is None or dtype.kind != "f":
        raise Refused(f"no loop is written for {name} of these arguments")
    along = [node.rows and node.shape.index(ROWS) == axis for node, axis in zip((a, b), axes, strict=True)]
    if all(along):
        for one, other in ((a, b), (b, a)):
            weights = _weights(one, other, dtype)
            if weights is not None:
                return made("square", dtype, shape, [_cast(one, dtype, one.shape, call.name), weights], call.name)
        wide = (a.columns == 1) != (b.columns == 1)
        x, v = (_cast_to_read(node, dtype, wide and node.columns > 1, call.name) for node in (a, b))
        return made("product", dtype, shape, [x, v], call.name)
    if any(along) or a.rows == b.rows or not {a.op, b.op} & {"shared"}:
        raise Refused(f"{name} multiplies two arrays of which neither is shared")
    x, fixed, axis = (a, b, axes[1]) if a.rows else (b, a, axes[0])
    matrix: Operand = fixed
    if len(fixed.shape) == 2 or fixed.dtype != dtype:
        matrix = low.before(_with_axis_last, [fixed, Const(axis), Const(dtype)], {}, fixed.name)
    return made("dot", dtype, shape, [_cast_to_read(x, dtype, True, call.name), matrix], call.name)


def _cast_to_read(node: Node, dtype: np.dtype[Any], wide: bool, name: str) -> Node:
    """Cast what is multiplied, unless the multiplication does so while it reads: single precision of the data, to double."""
    direct = wide and node.root.op == "lane" and (node.dtype.name, dtype.name) == ("float32", "float64")
    return node if direct else _cast(node, dtype, node.shape, name)


def _weights(a: Node, b: Node, dtype: np.dtype[Any]) -> Node | None:
    """Return h where b is the rows of a, each times its number h: then their product is symmetric, and b need not be made."""
    product = b.root
    if product.op != "map" or product.text != MAPS["multiply"] or product.dtype != dtype or a.columns == 1:
        return None
    for x, h in (product.args, product.args[::-1]):
        if not (isinstance(x, Node) and isinstance(h, Node) and h.rows and h.columns == 1):
            continue
        if _held(x) is _held(a) and pattern(x, product) == "j":
            return _cast(h, dtype, h.shape, h.name)
    return None


def _held(node: Node) -> Node:
    """Return what holds a node's numbers, maybe in fewer digits."""
    root = node.root
    while root.op == "map" and root.text == MAPS["positive"]:
        (held,) = root.reads()
        if not np.can_cast(held.dtype, root.dtype):
            break
        root = held
    return root


def _with_axis_last(x: Any, axis: int, dtype: np.dtype[Any]) -> Any:
    """Return a matrix of which each row is to be multiplied with each row of the lane."""
    x = np.moveaxis(np.asarray(x, dtype), axis, -1)
    return np.ascontiguousarray(x.reshape(-1, x.shape[-1]))
