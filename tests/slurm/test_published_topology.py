"""BioMed-LLaMA's topology for real: 32 ranks on 8 nodes, hybrid shard, with a preemption and a node that dies."""

from collections.abc import Iterator

import pytest

from launcher.devcluster import DevCluster, Shape
from launcher.run.ledger import read_attempts
from launcher.run.paths import RunDir
from tests.slurm.conftest import running_cluster
from tests.slurm.site import Site, joined_losses, record
from tests.support.waiting import wait_for

pytestmark = [pytest.mark.slurm, pytest.mark.long]

PATIENCE = 3600
SETTINGS = (
    "resources.nodes=8",
    "resources.gpus_per_node=4",
    "resources.time=2h",
    "batch.global_batch=64 sequences",
    "batch.micro_batch=1",
    "schedule.length=12 steps",
    "checkpoint.interval=2 steps",
)


@pytest.fixture(scope="module")
def cluster() -> Iterator[DevCluster]:
    """Nine nodes, so that one may die."""
    with running_cluster(Shape(nodes=9, gpus=4)) as cluster:
        yield cluster


@pytest.fixture(scope="module")
def site(cluster: DevCluster) -> Site:
    site = Site(cluster)
    site.prepare_corpus()
    return site


@pytest.fixture(scope="module")
def uninterrupted(site: Site) -> RunDir:
    run = site.submit_rehearsal(*SETTINGS)
    site.wait_until_finished(run, PATIENCE)
    return run


def test_parameters_are_sharded_in_a_node_and_replicated_over_eight(uninterrupted: RunDir) -> None:
    [line] = [line for line in uninterrupted.rank_log(0, 0).read_text().splitlines() if line.startswith("parameters:")]

    assert line == "parameters: DTensor (Replicate(), Shard(dim=0)) on mesh (8, 4)"


def test_a_preemption_and_a_dead_node_change_no_loss(site: Site, cluster: DevCluster, uninterrupted: RunDir) -> None:
    run = site.submit_rehearsal(*SETTINGS)
    site.preempt(run, step=3)
    site.wait_for_attempt(run, 1, PATIENCE)
    site.wait_for_step(run, 6, PATIENCE)
    lost = read_attempts(run.ledger)[-1].nodes[5]

    cluster.kill_node(lost)
    try:
        wait_for(lambda: len(read_attempts(run.ledger)) > 2, "the attempt on other nodes", PATIENCE)
        attempts = site.wait_until_finished(run, PATIENCE)
    finally:
        cluster.revive_node(lost)

    assert [attempt.reason for attempt in attempts] == ["preempted", "node_failure", "finished"]
    assert lost not in attempts[-1].nodes
    assert joined_losses(run) == joined_losses(uninterrupted)
    assert sorted(joined_losses(run)) == list(range(1, 13))
    assert len(record(run).submissions) == 1
