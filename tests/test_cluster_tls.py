"""``compile`` on a cluster that takes no word without a certificate: the test makes its own."""

from __future__ import annotations

import shutil
import ssl
import subprocess
from pathlib import Path
from typing import Any

import dask
import dask.array as da
import distributed
import numpy as np
import pytest
from conftest import QUIET
from oracle import close

import graphopt as go

pytestmark = [pytest.mark.timeout(90), pytest.mark.slow]


@pytest.fixture
def security(tmp_path: Path) -> distributed.Security:
    openssl = shutil.which("openssl")
    if openssl is None:
        pytest.skip("there is no openssl to make a certificate with")
    key, certificate = tmp_path / "key.pem", tmp_path / "certificate.pem"
    made = ["req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "1", "-subj", "/CN=graphopt"]
    subprocess.run([openssl, *made, "-keyout", key, "-out", certificate], check=True, capture_output=True)
    who: Any = {
        f"tls_{name}_{what}": str(file)
        for name in ("client", "scheduler", "worker")
        for what, file in (("key", key), ("cert", certificate))
    }
    return distributed.Security(tls_ca_file=str(certificate), require_encryption=True, **who)


def test_tls(security: distributed.Security) -> None:
    A = np.random.default_rng(0).random((24, 3))
    options: Any = {"n_workers": 2, "threads_per_worker": 1, "protocol": "tls://", "security": security, **QUIET}
    with distributed.LocalCluster(**options) as cluster, distributed.Client(cluster, security=security) as client:
        X = client.persist(da.from_array(A, chunks=(4, 3)))
        distributed.wait(X)
        step = go.compile(lambda beta, X: X.T.dot(X.dot(beta)) / 24, exact=True)
        assert close(step(np.ones(3), X), A.T @ (A @ np.ones(3)) / 24)
        expected = np.ones(3)
        for _ in range(20):
            expected = A.T @ (A @ expected) / 24
        assert close(go.iterate(step, np.ones(3), X, max_iter=20), expected)
        assert step.stats.by_dask == 0
        from graphopt.execute.channel import network_of

        assert {address[:6] for address in network_of(client).channels} == {"tls://"}
        lines = [channel.line for channel in network_of(client).channels.values()]
        assert all(line is not None and isinstance(line.socket, ssl.SSLSocket) for line in lines)
        for address in network_of(client).channels:
            with (
                pytest.raises((OSError, TypeError, RuntimeError)),
                dask.config.set({"distributed.comm.timeouts.connect": "1s"}),
            ):
                client.sync(_without_certificate, address)


async def _without_certificate(address: str) -> None:
    comm = await distributed.comm.connect(address, ssl_context=None, require_encryption=False)
    await comm.write({"op": "graphopt-serve", "client": "nobody"})
    await comm.read()
