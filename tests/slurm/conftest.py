"""Real dev clusters for the tests in this folder.

The folders lie directly in the temporary folder of the machine: pytest's own are too deep for Unix sockets.
"""

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import yaml

from launcher.devcluster import DevCluster, Shape, machine
from launcher.devcluster.config import DAEMON_PORTS, RENDEZVOUS_PORTS
from launcher.devcluster.machine import missing_programs
from tests.support.pytest_worker import own_ports


@contextmanager
def running_cluster(shape: Shape) -> Iterator[DevCluster]:
    """Run a dev cluster of this shape; skipped where Slurm is not installed."""
    if missing := missing_programs(shape.accounting):
        pytest.skip(f"a dev cluster needs {', '.join(missing)}, which this machine lacks")
    machine.DAEMON_PORTS = own_ports(DAEMON_PORTS)
    folder = Path(tempfile.mkdtemp(prefix="dc-"))
    cluster = DevCluster(folder)
    try:
        cluster.up(shape)
        _take_own_ports(cluster)
        yield cluster
    finally:
        cluster.down()
        shutil.rmtree(folder, ignore_errors=True)


def _take_own_ports(cluster: DevCluster) -> None:
    """Keep ranks from meeting those of another worker's cluster, which has jobs of the same numbers on this machine."""
    profile = yaml.safe_load(cluster.profile.read_text())
    ports = own_ports(RENDEZVOUS_PORTS)
    profile["slurm"]["port_range"] = [ports[0], ports[-1]]
    cluster.profile.write_text(yaml.safe_dump(profile, sort_keys=False))


@pytest.fixture(scope="session")
def devcluster() -> Iterator[DevCluster]:
    """One running cluster of 4 nodes x 4 GPUs for the whole test session, without accounting."""
    with running_cluster(Shape(nodes=4, gpus=4)) as cluster:
        yield cluster


@pytest.fixture(scope="session")
def accounting_cluster() -> Iterator[DevCluster]:
    """A running cluster of 2 nodes x 4 GPUs with MariaDB and slurmdbd for the whole test session."""
    with running_cluster(Shape(nodes=2, gpus=4, accounting=True)) as cluster:
        yield cluster


@pytest.fixture(scope="module")
def small_cluster() -> Iterator[DevCluster]:
    """A running cluster of 2 nodes x 2 GPUs without accounting, for the tests of one module."""
    with running_cluster(Shape(nodes=2, gpus=2)) as cluster:
        yield cluster
