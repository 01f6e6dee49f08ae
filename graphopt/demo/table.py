"""Any CSV or Parquet file as a classification problem, through dask.dataframe.

Numbers are standardised; text and categories become a 0/1 column for each value but the first; there is an intercept.
What cannot be fitted (missing values, a target with three values, an identifier among the text columns) is an error
that names the columns and says what to do; nothing is repaired in silence.
"""

from __future__ import annotations

import difflib
import glob
import operator
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import dask.array as da
import numpy as np
from dask.base import compute
from dask.delayed import delayed

from graphopt.demo.problem import INTERCEPT, Problem, chunk_lengths, with_free_intercept
from graphopt.report.errors import CommandError, import_extra

__all__ = ["MAX_CATEGORIES", "load"]

MAX_CATEGORIES = 100  # a text column with more values is an identifier or free text, and would make that many columns
READERS = {".csv": "read_csv", ".parquet": "read_parquet", ".pq": "read_parquet"}


def load(path: str, target: str, drop: Sequence[str], chunks: int, penalty: float) -> Problem:
    """The problem of predicting column ``target`` of a file from all others but ``drop``."""
    frame = _read(path)
    columns = [str(column) for column in frame.columns]
    for option, names in (("--target", [target]), ("--drop", drop)):
        for name in names:
            _require_column(name, columns, option)
    if target in drop:
        raise CommandError(f"column {target!r} is both the --target and given to --drop")
    frame = frame[[column for column in frame.columns if str(column) not in drop]]
    numbers, texts = _kinds(frame, target)
    parts = frame.to_delayed()  # once: asked again, dask may cut a Parquet file into other parts
    facts = _survey(frame, parts, target, numbers, texts)
    _check(facts, target)
    return _encode(Path(path).name, parts, target, facts, _scales(frame, numbers), chunks, penalty)


def _read(path: str) -> Any:
    """The file as a dask dataframe."""
    if not (glob.glob(path) if glob.has_magic(path) else Path(path).exists()):
        raise CommandError(f"there is no file {path}")
    reader = READERS.get(Path(path).suffix.lower())
    if reader is None:
        raise CommandError(f"cannot tell what {path} holds: its name should end in {', '.join(READERS)}")
    import_extra("pandas", "demo")
    if reader == "read_parquet":
        import_extra("pyarrow", "demo")
    frames = import_extra("dask.dataframe", "demo")
    # a CSV column of whole numbers may have gaps further down than the sample that dask takes the types from
    options = {"assume_missing": True} if reader == "read_csv" else {}
    try:
        return getattr(frames, reader)(path, **options)
    except Exception as error:  # the readers raise whatever their parsers raise
        raise CommandError(f"cannot read {path}: {_first_line(error)}") from error


def _first_line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def _require_column(name: str, columns: Sequence[str], option: str) -> None:
    if name in columns:
        return
    near = difflib.get_close_matches(name.lower(), [column.lower() for column in columns], n=1)
    hint = next((f"; did you mean {column!r}?" for column in columns if near and column.lower() == near[0]), "")
    raise CommandError(f"{option}: there is no column {name!r}{hint} (columns: {', '.join(columns)})")


def _kinds(frame: Any, target: str) -> tuple[list[Hashable], list[Hashable]]:
    """The columns to scale and the columns to one-hot, the target in neither."""
    from pandas.api import types

    numbers, texts, others = [], [], []
    for column, dtype in frame.dtypes.items():
        if str(column) == target:
            continue
        if types.is_bool_dtype(dtype) or types.is_numeric_dtype(dtype):
            numbers.append(column)
        elif isinstance(dtype, _categorical()) or types.is_string_dtype(dtype) or types.is_object_dtype(dtype):
            texts.append(column)
        else:
            others.append(f"{column} ({dtype})")
    if others:
        raise CommandError(f"neither numbers nor text, remove with --drop: {', '.join(others)}")
    return numbers, texts


def _categorical() -> type:
    from pandas import CategoricalDtype

    return CategoricalDtype  # type: ignore[no-any-return, unused-ignore]


@dataclass(frozen=True)
class Facts:
    """What has to be known of the data before it can be encoded, or refused."""

    lengths: tuple[int, ...]
    missing: Mapping[Hashable, int]
    infinite: Mapping[Hashable, int]
    values: Mapping[Hashable, list[Any]]  # of the text columns and the target, sorted


def _survey(frame: Any, parts: Sequence[Any], target: str, numbers: list[Hashable], texts: list[Hashable]) -> Facts:
    """Lengths, gaps and distinct values."""
    distinct = [column for column in frame.columns if column in texts or str(column) == target]
    scaled = frame[numbers].astype(float)
    lazy = {
        "missing": frame.isna().sum(),
        "infinite": (abs(scaled) == np.inf).sum(),
        "values": {column: frame[column].unique() for column in distinct},
    }
    try:
        lengths = compute(*[delayed(len)(part) for part in parts])
        (found,) = compute(lazy)
    except Exception as error:  # a CSV that is not what its first lines promise fails only here
        raise CommandError(f"cannot read the data: {_reason(error)}") from error
    values = {column: _sorted(found["values"][column]) for column in distinct}
    return Facts(
        lengths=lengths,
        missing={column: int(count) for column, count in found["missing"].items() if count},
        infinite={column: int(count) for column, count in found["infinite"].items() if count},
        values=values,
    )


def _scales(frame: Any, numbers: list[Hashable]) -> dict[Hashable, tuple[float, float]]:
    """Mean and standard deviation of each column of numbers."""
    if not numbers:
        return {}
    scaled = frame[numbers].astype(float)
    mean, std = compute(scaled.mean(), scaled.std(ddof=0))
    return {column: (float(mean[column]), float(std[column])) for column in numbers}


def _reason(error: BaseException) -> str:
    """The line of an error's text that tells most: pandas and dask put tables and advice for programmers around it."""
    text = str(error)
    if "Mismatched dtypes" in text:
        rows = [line.split("|")[1].strip() for line in text.splitlines() if line.startswith("| ")][1:]
        return f"text among the numbers of column {', '.join(rows)}; clean it or use --drop"
    return _first_line(error)


def _sorted(values: Any) -> list[Any]:
    """Distinct values without the missing ones, numbers by size and anything else by its text."""
    present = list(values.dropna().astype(object))
    try:
        return sorted(present)
    except TypeError:
        return sorted(present, key=str)


def _check(facts: Facts, target: str) -> None:
    """Raise for everything that gradient descent could not make sense of."""
    if not sum(facts.lengths):
        raise CommandError("the file has no rows")
    if facts.missing:
        raise CommandError(f"missing values (NaN) in {_counts(facts.missing)}: fill them in or use --drop")
    if facts.infinite:
        raise CommandError(f"infinite values in {_counts(facts.infinite)}: repair them or use --drop")
    for column, values in facts.values.items():
        if str(column) == target:
            if len(values) != 2:
                shown = ", ".join(map(_show, values[:8])) + (", ..." if len(values) > 8 else "")
                raise CommandError(f"the target {target!r} must have exactly two values, but has {len(values)}: {shown}")
        elif len(values) > MAX_CATEGORIES:
            raise CommandError(
                f"text column {column!r} has {len(values)} different values, the limit is {MAX_CATEGORIES}: "
                f"remove it with --drop {column}"
            )


def _show(value: Any) -> str:
    """A value for people: 1 for 1.0, which is how a CSV's whole numbers arrive."""
    return f"{value:g}" if isinstance(value, float) else str(value)


def _counts(columns: Mapping[Hashable, int]) -> str:
    return ", ".join(f"{column} ({count})" for column, count in columns.items())


def _encode(
    name: str,
    parts: Sequence[Any],
    target: str,
    facts: Facts,
    scales: Mapping[Hashable, tuple[float, float]],
    chunks: int,
    penalty: float,
) -> Problem:
    """The dataframe as a dask array of the columns to fit, in ``chunks`` parts of even size."""
    target_column = next(column for column in facts.values if str(column) == target)
    negative, positive = facts.values[target_column]
    scaled = [column for column, (_, std) in scales.items() if std > 0]
    constant = [column for column in scales if column not in scaled]
    indicators = [(column, value) for column, values in facts.values.items() if column != target_column for value in values[1:]]
    constant += [column for column, values in facts.values.items() if column != target_column and len(values) < 2]
    features = (*map(str, scaled), *(f"{column}={_show(value)}" for column, value in indicators), INTERCEPT)
    if len(features) == 1:
        raise CommandError("no column is left to predict the target from")
    mean, std = (np.array([scales[column][i] for column in scaled]) for i in (0, 1))
    blocks = [delayed(_rows)(part, scaled, mean, std, indicators, target_column, positive) for part in parts]
    lazy = [
        da.from_delayed(block, (length, len(features) + 1), dtype=float)
        for block, length in zip(blocks, facts.lengths, strict=True)
    ]
    lengths = chunk_lengths(sum(facts.lengths), chunks)
    table = da.concatenate(lazy).rechunk((lengths, (len(features) + 1,)))
    # a slice of columns is a view with gaps; BLAS would copy it at every iteration
    X = table[:, :-1].map_blocks(np.ascontiguousarray, dtype=float)
    y = table[:, -1].map_blocks(np.ascontiguousarray, dtype=float)
    notes = (f"constant, left out: {', '.join(map(str, constant))}",) if constant else ()
    return Problem(
        name,
        X,
        y,
        features,
        with_free_intercept(penalty, len(features)),
        positive=f"{target} = {_show(positive)} (against {_show(negative)})",
        notes=notes,
    )


def _rows(
    part: Any,
    scaled: list[Hashable],
    mean: Any,
    std: Any,
    indicators: list[tuple[Hashable, Any]],
    target: Hashable,
    positive: Any,
) -> Any:
    """One partition as a NumPy array: scaled numbers, indicators, ones, and the label in the last column."""
    numbers = (part[scaled].to_numpy(dtype=float) - mean) / std
    flags = [operator.eq(part[column].astype(object).to_numpy(), value) for column, value in indicators]
    label = operator.eq(part[target].astype(object).to_numpy(), positive)
    return np.column_stack([numbers, *flags, np.ones(len(part)), label]).astype(float)
