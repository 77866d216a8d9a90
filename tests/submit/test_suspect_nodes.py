"""Suspect nodes: what new jobs are not given, and `launcher nodes list`."""

import json
import time
from pathlib import Path

import pytest
import yaml

from launcher.cluster import Cluster
from launcher.run.paths import expand
from launcher.run.suspects import NodeReport, report_node
from launcher.site.suspect_nodes import Avoided, choose, nodes_able
from launcher.submit.plan_submission import SubmitOptions
from launcher.submit.resubmit import resubmit
from tests.support.command_line import launcher
from tests.support.fake_slurm import FakeSlurm
from tests.support.submissions import MakeCluster, MakeRecipe, loaded, submit

FOUR = "gpu01|gpu:4\ngpu02|gpu:4\ngpu03|gpu:4\ncpu01|(null)\n"


def suspect(cluster: Cluster, *nodes: str) -> None:
    runs = expand(cluster.roots.runs)
    runs.mkdir(exist_ok=True)
    for node in nodes:
        report_node(runs, NodeReport(node, "failed the preflight check", time.time(), "ab12cd"))


def exclusions(slurm: FakeSlurm) -> list[list[str]]:
    return [[word for word in call.argv if word.startswith("--exclude")] for call in slurm.calls("sbatch")]


def test_a_new_job_is_not_given_suspect_nodes(
    fake_slurm: FakeSlurm, make_cluster: MakeCluster, make_recipe: MakeRecipe
) -> None:
    cluster = make_cluster()
    suspect(cluster, "gpu02", "elsewhere")
    fake_slurm.answer("sinfo", FOUR)

    submit(loaded(make_recipe()), cluster, SubmitOptions())

    assert exclusions(fake_slurm) == [["--exclude=gpu02"]]


def test_so_is_a_run_that_is_resumed(fake_slurm: FakeSlurm, make_cluster: MakeCluster, make_recipe: MakeRecipe) -> None:
    cluster = make_cluster()
    (run,) = submit(loaded(make_recipe()), cluster, SubmitOptions())
    fake_slurm.forget("1001")
    suspect(cluster, "gpu02")
    fake_slurm.answer("sinfo", FOUR)

    resubmit(run, cluster)

    assert exclusions(fake_slurm) == [[], ["--exclude=gpu02"]]


@pytest.mark.parametrize("answer", ["", "gpu02|gpu:4\n"])
def test_where_too_few_others_are_left_or_slurm_does_not_tell_nothing_is_excluded(
    fake_slurm: FakeSlurm, make_cluster: MakeCluster, make_recipe: MakeRecipe, answer: str
) -> None:
    cluster = make_cluster()
    suspect(cluster, "gpu02")
    fake_slurm.answer("sinfo", answer)

    submit(loaded(make_recipe()), cluster, SubmitOptions())

    assert exclusions(fake_slurm) == [[]]


def test_without_suspect_nodes_slurm_is_not_asked_for_its_nodes(
    fake_slurm: FakeSlurm, make_cluster: MakeCluster, make_recipe: MakeRecipe
) -> None:
    submit(loaded(make_recipe()), make_cluster(), SubmitOptions())

    assert not any("--Node" in call.argv for call in fake_slurm.calls("sinfo"))


def test_a_profile_that_remembers_nothing_avoids_nothing(
    fake_slurm: FakeSlurm, make_cluster: MakeCluster, make_recipe: MakeRecipe
) -> None:
    cluster = make_cluster(slurm={"remember": None})
    suspect(cluster, "gpu02")
    fake_slurm.answer("sinfo", FOUR)

    submit(loaded(make_recipe()), cluster, SubmitOptions())

    assert exclusions(fake_slurm) == [[]]


def test_as_many_are_avoided_as_the_job_can_do_without_the_worst_first() -> None:
    able = {"a", "b", "c", "d"}

    assert choose(["c", "a", "x"], able, 2, []) == Avoided(("c", "a"), ("--exclude=c,a",), ())
    assert choose(["c", "a", "x"], able, 3, []) == Avoided(("c",), ("--exclude=c",), ("a",))
    assert choose(["c", "a"], able, 4, []) == Avoided((), (), ("c", "a"))
    assert choose(["x"], able, 1, []) == Avoided()


def test_what_the_profile_excludes_stays_excluded() -> None:
    assert choose(["c"], {"b", "c"}, 1, ["old"]).options == ("--exclude=old,c",)


def test_nodes_with_too_few_gpus_do_not_count() -> None:
    assert nodes_able("gpu01|gpu:a100:4(S:0-1)\ngpu02|gpu:2\ncpu01|(null)\n", 4) == {"gpu01"}
    assert nodes_able("cpu01|(null)\n", 0) == {"cpu01"}


@pytest.fixture
def profile(make_cluster: MakeCluster, tmp_path: Path) -> str:
    path = tmp_path / "site.yaml"
    path.write_text(yaml.safe_dump(make_cluster().model_dump(mode="json", exclude_unset=True)))
    return str(path)


def test_nodes_are_added_listed_and_forgiven(profile: str) -> None:
    assert launcher("nodes", "list", "--cluster", profile)[0] == "no node gave trouble in the last 7d\n"

    launcher("nodes", "add", "gpu07", "gpu08", "--reason", "its fan is loud", "--cluster", profile)
    said, _ = launcher("nodes", "list", "--cluster", profile)
    assert "gpu07  avoided until " in said
    assert "added by hand: its fan is loud" in said

    launcher("nodes", "forgive", "gpu07", "--cluster", profile)
    found = json.loads(launcher("nodes", "list", "--json", "--cluster", profile)[0])["nodes"]
    assert [(one["node"], one["is_avoided"]) for one in found] == [("gpu08", True)]


def test_a_list_of_nodes_is_no_node(profile: str) -> None:
    assert "is not the name of one node" in launcher("nodes", "forgive", "gpu[01-04]", "--cluster", profile, code=2)[1]
