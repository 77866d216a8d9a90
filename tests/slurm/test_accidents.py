"""Trainings, small but real, on sites where things go wrong that the story of a run has not."""

import socket
from pathlib import Path

import pytest

from jobs.batch.rendezvous import first_port
from launcher.devcluster import DevCluster
from launcher.run.ledger import Attempt, read_attempts
from launcher.run.paths import RunDir
from tests.slurm.site import (
    ONE_RANK,
    ONE_RANK_A_NODE,
    RECIPES,
    Site,
    free_ports,
    joined_losses,
    logs_text,
    paused,
    preempt_mode,
    record,
    steps_by_attempt,
)

pytestmark = pytest.mark.slurm

ON_ONE_NODE = (*ONE_RANK, "batch.global_batch=8 sequences", "checkpoint.interval=4 steps")


@pytest.fixture(scope="module")
def site(devcluster: DevCluster) -> Site:
    site = Site(devcluster)
    site.prepare_corpus()
    return site


def ends(attempts: list[Attempt]) -> list[tuple[str | None, str | None]]:
    return [(attempt.reason, attempt.action) for attempt in attempts]


def test_a_training_whose_first_node_dies_goes_on_from_its_checkpoint_on_other_nodes(site: Site) -> None:
    run = site.submit_rehearsal(*ONE_RANK_A_NODE, "schedule.length=14 steps", "checkpoint.interval=4 steps")
    site.wait_for_step(run, 6)
    dead = read_attempts(run.ledger)[-1].nodes[0]

    with paused(run):
        site.cluster.kill_node(dead, announce=True)
    try:
        attempts = site.wait_until_finished(run)
    finally:
        site.cluster.revive_node(dead)

    assert ends(attempts) == [("node_failure", "requeue"), ("finished", "done")], logs_text(run)
    assert dead not in attempts[1].nodes
    steps = steps_by_attempt(run)
    assert steps[1][0] - 1 in (4, 8, 12)
    assert steps[0][-1] - (steps[1][0] - 1) < 4
    assert sorted(joined_losses(run)) == list(range(1, 15))  # redone steps had the same losses


def test_a_training_on_a_site_that_cancels_what_it_preempts_comes_back_and_redoes_no_step(site: Site) -> None:
    with preempt_mode(site.cluster, "CANCEL", 10):
        run = site.submit_rehearsal(*ON_ONE_NODE, "schedule.length=20 steps")
        site.preempt(run, step=5)
        attempts = site.wait_until_finished(run)

    assert ends(attempts) == [("preempted", "requeue"), ("finished", "done")], logs_text(run)
    steps = steps_by_attempt(run)
    assert steps[0] + steps[1] == list(range(1, 21))


def test_two_trainings_on_one_node_at_once_find_ports_of_their_own_beside_one_that_is_taken(
    site: Site, tmp_path: Path
) -> None:
    start = free_ports(6)
    profile = tmp_path / "one-node.yaml"
    slurm = f"slurm:\n  exclude: a100-[02-04]\n  port_range: [{start}, {start + 5}]\n"
    profile.write_text(f"base: {site.cluster.profile}\n{slurm}")

    first = submit(site, profile)
    site.wait_for_attempt(first, 0)
    taken = first_port(int(record(first).submissions[-1].job_id) + 1, 0, (start, start + 5))
    with socket.create_server(("127.0.0.1", taken)):
        second = submit(site, profile)
        [one], [other] = (site.wait_until_finished(run) for run in (first, second))

    assert one.nodes == other.nodes == ["a100-01"]
    assert other.started < (one.ended or 0)
    assert f"port {taken} was taken" in second.batch_log(0).read_text()
    assert sorted(joined_losses(first)) == sorted(joined_losses(second)) == list(range(1, 9))


def submit(site: Site, profile: Path) -> RunDir:
    settings = [word for setting in (*ON_ONE_NODE, "schedule.length=8 steps") for word in ("--set", setting)]
    [run] = site.submit(RECIPES / "biomed_llama_cpt.yaml", "--rehearse", *settings, "--cluster", profile)
    return run
