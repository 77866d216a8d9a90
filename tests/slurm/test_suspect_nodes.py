"""Nodes that gave trouble, on a real Slurm: jobs and debug sessions are kept away from them until they are forgiven."""

import json
import subprocess
import time
from pathlib import Path

import pytest
import yaml

from launcher.devcluster import DevCluster
from launcher.run.suspects import NodeReport, report_node
from tests.slurm.site import LAUNCHER, ONE_RANK, RECIPES, Site, no_new_starts, record

pytestmark = pytest.mark.slurm

SHELL = ("debug", str(RECIPES / "biomed_llama_cpt.yaml"), "--rehearse", "--shell")


@pytest.fixture
def site(devcluster: DevCluster, tmp_path: Path) -> Site:
    """The dev cluster with runs of its own, so that other tests do not avoid what is planted here."""
    profile = tmp_path / "own.yaml"
    profile.write_text(yaml.safe_dump({"base": str(devcluster.profile), "roots": {"runs": str(tmp_path / "runs")}}))
    (tmp_path / "runs").mkdir()
    site = Site(devcluster)
    site.prepare_corpus()
    site.environment["LAUNCHER_CLUSTER"] = str(profile)
    return site


def excluded_of_a_new_job(site: Site) -> str:
    """Submit a run that waits, cancel it, and return the nodes that its job is not to have."""
    run = site.submit_rehearsal(*ONE_RANK, "schedule.length=2 steps")
    job = record(run).submissions[-1].job_id
    told = site.slurm("scontrol", "show", "job", job)
    site.slurm("scancel", job)
    return told.partition("ExcNodeList=")[2].split()[0]


def node_of_a_debug_session(site: Site) -> tuple[str, str]:
    """Open a shell in an allocation, return the node that it is on and what was said about nodes."""
    words = [word for setting in ONE_RANK for word in ("--set", setting)]
    argv = [*LAUNCHER, *SHELL, *words]
    done = subprocess.run(
        argv, env=site.environment, input="echo it-is-on-$SLURMD_NODENAME\n", capture_output=True, text=True, check=True
    )
    return done.stdout.partition("it-is-on-")[2].split()[0], done.stderr


def test_a_suspect_node_is_avoided_and_listed_until_it_is_forgiven(site: Site, tmp_path: Path) -> None:
    first = site.slurm("sinfo", "--Node", "--noheader", "--format=%N").split()[0]
    report_node(tmp_path / "runs", NodeReport(first, "failed the preflight check", time.time(), "ab12cd", 3))

    [listed] = json.loads(site.launcher("nodes", "list", "--json"))["nodes"]
    assert (listed["node"], listed["is_avoided"]) == (first, True)
    assert "failed the preflight check (run ab12cd, attempt 3)" in site.launcher("nodes", "list")
    with no_new_starts(site.cluster):
        assert excluded_of_a_new_job(site) == first
    node, said = node_of_a_debug_session(site)
    assert node != first
    assert f"not on {first}, which gave trouble lately" in said

    site.launcher("nodes", "forgive", first)

    assert json.loads(site.launcher("nodes", "list", "--json"))["nodes"] == []
    with no_new_starts(site.cluster):
        assert excluded_of_a_new_job(site) == "(null)"
    node, said = node_of_a_debug_session(site)
    assert (node, "not on" in said) == (first, False)
