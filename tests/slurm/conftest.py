"""Real dev clusters for the tests in this folder.

The folders lie directly in the temporary folder of the machine: pytest's own are too deep for Unix sockets.
"""

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from launcher.devcluster import DevCluster, Shape
from launcher.devcluster.machine import missing_programs


@contextmanager
def _running(shape: Shape) -> Iterator[DevCluster]:
    if missing := missing_programs(shape.accounting):
        pytest.skip(f"a dev cluster needs {', '.join(missing)}, which this machine lacks")
    folder = Path(tempfile.mkdtemp(prefix="dc-"))
    cluster = DevCluster(folder)
    try:
        cluster.up(shape)
        yield cluster
    finally:
        cluster.down()
        shutil.rmtree(folder)


@pytest.fixture(scope="session")
def devcluster() -> Iterator[DevCluster]:
    """One running cluster of 4 nodes x 4 GPUs for the whole test session, without accounting."""
    with _running(Shape(nodes=4, gpus=4)) as cluster:
        yield cluster


@pytest.fixture(scope="module")
def accounting_cluster() -> Iterator[DevCluster]:
    """A running cluster of 2 nodes x 4 GPUs with MariaDB and slurmdbd, for the tests of one module."""
    with _running(Shape(nodes=2, gpus=4, accounting=True)) as cluster:
        yield cluster
