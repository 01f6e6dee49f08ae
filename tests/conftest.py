"""What the tests share: a cluster of two worker processes, a guard over dask's configuration, and hypothesis profiles.

A test that starts a cluster of its own does so with ``**QUIET``. The port of the scheduler's pages may be taken, which is a
warning and hence an error here (and with ``dashboard_address=None`` it is still opened); starting a dashboard changes dask's
configuration.
"""

from __future__ import annotations

import atexit
import copy
import os
import shutil
import signal
import tempfile
from collections.abc import Iterator
from typing import Any

import dask
import distributed  # loads its defaults into dask's configuration now, not in the middle of a test
import hypothesis
import pytest

# The same examples on every run and machine: a failure in CI is a failure at home. HYPOTHESIS_PROFILE=thorough searches.
hypothesis.settings.register_profile("ci", deadline=None, max_examples=100, derandomize=True, database=None)
hypothesis.settings.register_profile("thorough", deadline=None, max_examples=2_000, derandomize=False)
hypothesis.settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "ci"))


# Machine code is kept for the length of a run, and shared by all processes of it: what a test counts must not depend on
# what ran before.
if "GRAPHOPT_STORE" not in os.environ:
    os.environ["GRAPHOPT_STORE"] = tempfile.mkdtemp(prefix="graphopt-store-")
    atexit.register(shutil.rmtree, os.environ["GRAPHOPT_STORE"], ignore_errors=True)

# Shells start jobs in the background with Ctrl-C ignored, and processes pass that on; here some tests send it.
signal.signal(signal.SIGINT, signal.default_int_handler)

#: Options of a `distributed.LocalCluster` that takes no port that anybody else may have.
QUIET: dict[str, Any] = {"dashboard_address": ":0", "scheduler_kwargs": {"dashboard": False}}


@pytest.fixture(scope="session")
def cluster() -> Iterator[distributed.LocalCluster]:
    """Two worker processes of one thread each, started once: each start takes seconds."""
    with distributed.LocalCluster(n_workers=2, threads_per_worker=1, processes=True, **QUIET) as cluster:
        yield cluster


@pytest.fixture
def client(cluster: distributed.LocalCluster) -> Iterator[distributed.Client]:
    """A client of the cluster, dask's default scheduler for the length of a test. A worker lost is there again."""
    with distributed.Client(cluster) as client:
        client.wait_for_workers(2, timeout=30)
        yield client


@pytest.fixture(autouse=True)
def dask_config_is_restored() -> Iterator[None]:
    """Fail a test that leaves dask's configuration changed: the next one would run under it."""
    before = copy.deepcopy(dask.config.config)
    yield
    after = dask.config.config
    if after != before:
        changed = {name for name in before.keys() | after.keys() if before.get(name) != after.get(name)}
        dask.config.config.clear()
        dask.config.config.update(before)
        pytest.fail(f"the test left dask's configuration changed: {', '.join(sorted(changed))}")
