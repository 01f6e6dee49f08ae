"""Graphs that other libraries make, or that reach into them: they stay right. Each is a small worked example.

What is not installed is skipped, so that the examples keep working where it is.
"""

from __future__ import annotations

import json
import operator
from collections.abc import Callable, Iterator
from typing import Any

import dask
import dask.array as da
import dask.bag as db
import numpy as np
import pytest
from seen import STRICT, run_here

import graphopt as go

pytestmark = pytest.mark.timeout(90)

A = np.random.default_rng(0).random((24, 12))


@pytest.fixture(params=["sync", "threads"])
def scheduler(request: pytest.FixtureRequest) -> Iterator[str]:
    with dask.config.set(scheduler=request.param, num_workers=2):
        yield request.param


def plain(*collections: Any) -> Any:
    results = dask.compute(*collections, scheduler="sync", optimize_graph=False)
    return results[0] if len(results) == 1 else results


# -- labelled arrays ---------------------------------------------------------------------------------------------------


class Labelled:
    """As much of xarray as makes its graphs: a dask collection that wraps a dask array and labels its axes."""

    def __init__(self, data: Any, dims: tuple[str, ...]) -> None:
        self.data, self.dims = data, dims

    def isel(self, **index: Any) -> Labelled:
        """Select along one axis after the other, as xarray's lazily indexed arrays do."""
        data, dims = self.data, list(self.dims)
        for name, where in index.items():
            axis = dims.index(name)
            data = data[(slice(None),) * axis + (where,)]
            if isinstance(where, int):
                dims.remove(name)
        return Labelled(data, tuple(dims))

    def apply(self, func: Callable[..., Any]) -> Labelled:
        return Labelled(da.map_blocks(func, self.data, dtype=float), self.dims)

    def __dask_graph__(self) -> Any:
        return self.data.__dask_graph__()

    def __dask_keys__(self) -> Any:
        return self.data.__dask_keys__()

    def __dask_layers__(self) -> Any:
        return self.data.__dask_layers__()

    @property
    def __dask_optimize__(self) -> Any:
        return self.data.__dask_optimize__

    __dask_scheduler__ = staticmethod(dask.threaded.get)

    def __dask_postcompute__(self) -> Any:
        finish, args = self.data.__dask_postcompute__()
        return self._finish, (finish, args)

    def _finish(self, results: Any, finish: Any, args: Any) -> Labelled:
        return Labelled(finish(results, *args), self.dims)

    def __dask_postpersist__(self) -> Any:
        rebuild, args = self.data.__dask_postpersist__()
        return self._rebuild, (rebuild, args)

    def _rebuild(self, graph: Any, rebuild: Any, args: Any, **options: Any) -> Labelled:
        return Labelled(rebuild(graph, *args, **options), self.dims)


class Lazy:
    """A file's variable that counts what is read from it, in the way of xarray's backend arrays."""

    def __init__(self, values: Any) -> None:
        self.values, self.shape, self.dtype, self.ndim = values, values.shape, values.dtype, values.ndim
        self.read = 0

    def __getitem__(self, index: Any) -> Any:
        part = self.values[index]
        self.read += part.size
        return part


def test_labelled_arrays(scheduler: str) -> None:
    """Slices of slices of a stored variable, through a collection type of somebody else's."""
    stored = Lazy(A)
    data = da.from_array(stored, chunks=(6, 4), name="variable", asarray=True, lock=True)
    whole = Labelled(data, ("time", "x"))
    part = whole.isel(time=slice(2, 20), x=slice(None, None, 2)).isel(time=slice(1, -1, 3), x=3).apply(np.sqrt)
    expected = np.sqrt(A[2:20, ::2][1:-1:3, 3])
    with go.optimized(**STRICT, parallelism=2):
        stored.read = 0
        (found,) = dask.compute(part)
        assert stored.read < A.size, "only what is needed is read"
        (held,) = dask.persist(part)
        (again,) = dask.compute(held)
        (both, total) = dask.compute(part, data.sum())
    for one in (found, again, both):
        assert one.dims == ("time",)
        np.testing.assert_array_equal(one.data, expected)
    np.testing.assert_allclose(total, A.sum())


def test_xarray(scheduler: str) -> None:
    xarray = pytest.importorskip("xarray")
    values = xarray.DataArray(A, dims=("time", "x"), coords={"time": np.arange(24) % 4}).chunk(time=6, x=4)
    anomaly = values.groupby("time") - values.groupby("time").mean()
    with go.optimized(**STRICT):
        xarray.testing.assert_identical(anomaly.compute(), plain(anomaly))
        xarray.testing.assert_identical(values.isel(time=slice(2, 20)).sel(x=[1, 5]).mean().compute(), plain(
            values.isel(time=slice(2, 20)).sel(x=[1, 5]).mean()
        ))  # fmt: skip


# -- object stores, through fsspec -------------------------------------------------------------------------------------


@pytest.fixture
def bucket() -> Iterator[str]:
    """An object store in memory: what is written under this URL is read like anything under s3:// or gs://."""
    fsspec = pytest.importorskip("fsspec")
    store = fsspec.filesystem("memory")
    store.pipe({f"/bucket/{n}.json": "\n".join(json.dumps({"n": n, "i": i}) for i in range(5)).encode() for n in range(3)})
    store.pipe({f"/bucket/{n}.csv": b"n,i\n" + b"".join(b"%d,%d\n" % (n, i) for i in range(5)) for n in range(3)})
    yield "memory://bucket"
    store.rm("/bucket", recursive=True)


def test_text_from_an_object_store(bucket: str, scheduler: str) -> None:
    """The worked example of the documentation: records in a cloud store, read, filtered and summed. One task a file."""
    records = db.read_text(f"{bucket}/*.json").map(json.loads)
    total = records.filter(lambda record: record["i"] % 2 == 0).pluck("n").map(operator.mul, 10).sum()
    with go.optimized(**STRICT, parallelism=2), run_here() as ran:
        assert total.compute() == 90
    assert len(ran) <= 4
    with go.optimized(**STRICT):
        assert records.take(2, npartitions=-1, compute=True) == ({"n": 0, "i": 0}, {"n": 0, "i": 1})
        counts = records.foldby("n", lambda count, record: count + 1, 0, operator.add, 0).compute()
    assert dict(counts) == {0: 5, 1: 5, 2: 5}


def test_bytes_from_an_object_store_into_arrays(bucket: str, scheduler: str) -> None:
    """Objects read by Delayed functions become the blocks of an array, as is done with images and satellite tiles."""
    import fsspec

    store = fsspec.filesystem("memory")
    for n in range(4):
        store.pipe(f"/bucket/{n}.raw", A[6 * n : 6 * n + 6].tobytes())

    @dask.delayed
    def fetch(url: str) -> Any:
        with fsspec.open(url, "rb") as file:
            return np.frombuffer(file.read()).reshape(6, 12)

    x = da.concatenate([da.from_delayed(fetch(f"{bucket}/{n}.raw"), (6, 12), float) for n in range(4)])
    y = (x - x.mean(axis=0)) ** 2
    with go.optimized(**STRICT):
        np.testing.assert_array_equal(y.compute(), plain(y))
        np.testing.assert_allclose(y.sum(axis=0).compute(), ((A - A.mean(axis=0)) ** 2).sum(axis=0))


@pytest.mark.filterwarnings("ignore:Computing mixed collections")
def test_dataframes_from_an_object_store(bucket: str, scheduler: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows to dataframe to array to a model's input, and a dataframe beside an array in one compute."""
    dd = pytest.importorskip("dask.dataframe")
    frame = dd.read_csv(f"{bucket}/*.csv")
    values = frame.assign(j=frame.i * 10).to_dask_array(lengths=[5, 5, 5])
    gram = values.T @ values
    expected = np.array([(n, i, 10 * i) for n in range(3) for i in range(5)])
    with go.optimized(**STRICT, parallelism=2):
        np.testing.assert_array_equal(gram.compute(), expected.T @ expected)
        sizes, total = dask.compute(frame.groupby("n").i.sum(), values.sum())
        parts = dask.delayed(list)([dask.delayed(len)(part) for part in frame.to_delayed()]).compute()
    assert sizes.tolist() == [10, 10, 10]
    assert total == expected.sum()
    assert parts == [5, 5, 5]


def test_writing_to_an_object_store(bucket: str, scheduler: str) -> None:
    import fsspec

    store = fsspec.filesystem("memory")
    lines = db.from_sequence(range(6), npartitions=3).map(lambda i: i * i).map(str)
    with go.optimized(**STRICT):
        lines.to_textfiles(f"{bucket}/out-*.txt")
    written = b"".join(store.cat_file(path) + b"\n" for path in sorted(store.glob("/bucket/out-*.txt")))
    assert written.split() == [b"0", b"1", b"4", b"9", b"16", b"25"]


def test_zarr(scheduler: str, tmp_path: Any) -> None:
    pytest.importorskip("zarr")
    x = da.from_array(A, chunks=(6, 4))
    with go.optimized(**STRICT):
        (x + 1).to_zarr(str(tmp_path / "a.zarr"))
        np.testing.assert_array_equal(da.from_zarr(str(tmp_path / "a.zarr")).compute(), A + 1)


# -- models fed from dask ----------------------------------------------------------------------------------------------


def test_scikit_learn_fed_block_by_block(scheduler: str) -> None:
    """A model trained by parts, each call on the result of the one before: the chain that out-of-core training makes."""
    linear_model = pytest.importorskip("sklearn.linear_model")
    x = da.from_array(A, chunks=(6, 12))
    y = (x.sum(axis=1) > 6).astype(int)

    @dask.delayed(pure=False)
    def train(model: Any, rows: Any, labels: Any) -> Any:
        return model.partial_fit(rows, labels, classes=[0, 1])

    def fitted() -> Any:
        model = dask.delayed(linear_model.SGDClassifier, pure=False)(random_state=0)
        for rows, labels in zip(x.to_delayed()[:, 0], y.to_delayed(), strict=True):
            model = train(model, rows, labels)
        return model

    expected = plain(fitted())
    with go.optimized(**STRICT):
        found = fitted().compute()
    np.testing.assert_array_equal(found.coef_, expected.coef_)
    assert found.t_ == expected.t_
    with go.optimized(**STRICT):
        predicted = x.map_blocks(found.predict, drop_axis=1, dtype=int).compute()
    np.testing.assert_array_equal(predicted, expected.predict(A))


def test_joblib_on_a_cluster(client: Any) -> None:
    """scikit-learn's own parallelism over dask's workers, while the optimiser is on."""
    joblib = pytest.importorskip("joblib")
    with go.optimized(**STRICT), joblib.parallel_config(backend="dask"):
        assert joblib.Parallel()(joblib.delayed(operator.mul)(i, i) for i in range(5)) == [0, 1, 4, 9, 16]


def test_xgboost_on_a_cluster(client: Any) -> None:
    xgboost = pytest.importorskip("xgboost")
    on_dask = pytest.importorskip("xgboost.dask")
    x = da.from_array(A, chunks=(6, 12))
    y = (x.sum(axis=1) > 6).astype(int)
    options = {"objective": "binary:logistic", "seed": 0, "tree_method": "hist"}
    with go.optimized(**STRICT):
        data = on_dask.DaskDMatrix(client, (x * 2 - 1).persist(), y.persist())
        trained = on_dask.train(client, options, data, num_boost_round=3)
        found = on_dask.predict(client, trained, x * 2 - 1).compute()
    matrix = xgboost.DMatrix(A * 2 - 1, label=y.compute(scheduler="sync"))
    alone = xgboost.train(options, matrix, num_boost_round=3)
    assert ((found > 0.5) == (alone.predict(matrix) > 0.5)).mean() > 0.9


def test_tensorflow_fed_block_by_block(scheduler: str) -> None:
    tensorflow = pytest.importorskip("tensorflow")
    x = da.from_array(A, chunks=(6, 12)) * 2 - 1

    def blocks() -> Iterator[Any]:
        for part in x.to_delayed()[:, 0]:
            yield part.compute()

    with go.optimized(**STRICT):
        data = tensorflow.data.Dataset.from_generator(
            blocks, output_signature=tensorflow.TensorSpec((6, 12), tensorflow.float64)
        )
        np.testing.assert_array_equal(np.concatenate(list(data.as_numpy_iterator())), A * 2 - 1)
