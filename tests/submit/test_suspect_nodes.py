"""Suspect nodes: what new jobs are not given, and `launcher nodes list`."""

import json
import time
from pathlib import Path
from typing import Any

import pytest
import yaml

from launcher.cluster import Cluster
from launcher.run.able_nodes import UnknownNodesError, WantedNode, group_able, parse_nodes, satisfies
from launcher.run.paths import expand
from launcher.run.suspects import NodeReport, report_node
from launcher.site.suspect_nodes import Avoided, choose
from launcher.submit.plan_submission import SubmitOptions
from launcher.submit.resubmit import resubmit
from tests.support.command_line import launcher
from tests.support.fake_slurm import FakeSlurm
from tests.support.submissions import MakeCluster, MakeRecipe, loaded, submit


def listed(
    name: str, gres: str = "gpu:4", state: str = "idle", features: str = "(null)", partition: str = "gpu*"
) -> str:
    """A line of sinfo."""
    return f"{partition}|{name}|{state}|{gres}|{features}|64|512000\n"


FOUR = "".join(map(listed, ("gpu01", "gpu02", "gpu03"))) + listed("cpu01", "(null)")


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


@pytest.mark.parametrize("answer", ["", listed("gpu02")])
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
    able = [{"a", "b", "c", "d"}]

    assert choose(["c", "a", "x"], able, 2, []) == Avoided(("c", "a"), ("--exclude=c,a",), ())
    assert choose(["c", "a", "x"], able, 3, []) == Avoided(("c",), ("--exclude=c",), ("a",))
    assert choose(["c", "a"], able, 4, []) == Avoided((), (), ("c", "a"))
    assert choose(["x"], able, 1, []) == Avoided()


def test_what_the_profile_excludes_stays_excluded() -> None:
    assert choose(["c"], [{"b", "c"}], 1, ["old"]).options == ("--exclude=old,c",)


def test_all_nodes_of_a_job_are_of_one_partition() -> None:
    able = [{"a", "b", "c"}, {"x", "y"}]

    assert choose(["a", "x"], able, 2, []).nodes == ("a", "x")
    assert choose(["a", "x"], able, 3, []) == Avoided(("x",), ("--exclude=x",), ("a",))
    assert choose(["a", "x"], able, 4, []) == Avoided((), (), ("a", "x"))


def able(lines: str, **wanted: Any) -> list[set[str]]:
    return group_able(parse_nodes(lines), WantedNode(**{"gpus": 4, "cpus": 8, **wanted}), only_default=False)


@pytest.mark.parametrize(
    ("line", "wanted", "can"),
    [
        (listed("n", "gpu:a100:4(S:0-1)"), {}, True),
        (listed("n", "gpu:2"), {}, False),
        (listed("n", "(null)"), {}, False),
        (listed("n", "(null)"), {"gpus": 0}, True),
        (listed("n", "gpu:a100:4"), {"gpu_type": "a100"}, True),
        (listed("n", "gpu:v100:4"), {"gpu_type": "a100"}, False),
        (listed("n", "gpu:a100:2,gpu:v100:2"), {"gpu_type": "a100"}, False),
        (listed("n"), {"gpu_type": "a100"}, False),
        (listed("n"), {"cpus": 65}, False),
        (listed("n"), {"mebibytes": 512001}, False),
        (listed("n", features="nvlink,ib"), {"constraint": "nvlink"}, True),
        (listed("n", features="nvlink,ib"), {"constraint": "nvlink&hbm"}, False),
        *((listed("n", state=state), {}, True) for state in ("allocated", "mixed", "completing", "planned", "idle~")),
        *(
            (listed("n", state=state), {}, False)
            for state in ("down", "DRAINED*", "draining", "fail", "idle*", "maint")
        ),
        (listed("n", state="reserved"), {}, False),
        (listed("n", state="reserved"), {"is_reserved": True}, True),
    ],
)
def test_only_nodes_that_can_take_the_job_count(line: str, wanted: dict[str, Any], can: bool) -> None:
    assert able(line, **wanted) == [{"n"} if can else set()]


def test_nodes_of_other_partitions_than_the_default_one_do_not_count_unless_they_are_named() -> None:
    nodes = parse_nodes(listed("a") + listed("b", partition="debug"))

    assert group_able(nodes, WantedNode(4, 8), only_default=True) == [{"a"}]
    assert group_able(nodes, WantedNode(4, 8), only_default=False) == [{"a"}, {"b"}]


@pytest.mark.parametrize(
    ("constraint", "fulfilled"),
    [("a", True), ("x", False), ("a&b", True), ("a&x", False), ("x|b", True), ("x|y", False), ("a&(x|b)", True),
     ("(a&x)|(a&b)", True), ("(a)&x", False)],
)  # fmt: skip
def test_a_constraint_is_compared_with_the_features_of_a_node(constraint: str, fulfilled: bool) -> None:
    assert satisfies(constraint, frozenset({"a", "b"})) == fulfilled


@pytest.mark.parametrize("constraint", ["[a|b]", "a*2", "a&b|x", "(a", "a)", "a&", "!a"])
def test_a_constraint_that_only_slurm_understands_excludes_nothing(
    fake_slurm: FakeSlurm, make_cluster: MakeCluster, make_recipe: MakeRecipe, constraint: str
) -> None:
    with pytest.raises(UnknownNodesError):
        satisfies(constraint, frozenset({"a", "b"}))

    cluster = make_cluster(slurm={"constraint": constraint})
    suspect(cluster, "gpu02")
    fake_slurm.answer("sinfo", FOUR)
    submit(loaded(make_recipe()), cluster, SubmitOptions())

    assert exclusions(fake_slurm) == [[]]


def test_nodes_that_the_profile_names_or_that_nobody_can_tell_are_not_excluded(
    fake_slurm: FakeSlurm, make_cluster: MakeCluster, make_recipe: MakeRecipe
) -> None:
    fake_slurm.answer("sinfo", FOUR)
    for changes in ({"options": {"nodelist": "gpu02"}}, {"reservation": "course"}):
        cluster = make_cluster(slurm=changes)
        suspect(cluster, "gpu02")
        submit(loaded(make_recipe(name=str(changes))), cluster, SubmitOptions())

    assert exclusions(fake_slurm) == [[], []]


def test_a_job_is_left_the_nodes_that_have_its_features_and_work(
    fake_slurm: FakeSlurm, make_cluster: MakeCluster, make_recipe: MakeRecipe
) -> None:
    cluster = make_cluster(slurm={"constraint": "nvlink"})
    suspect(cluster, "gpu02")
    others = listed("gpu01", features="pcie") + listed("gpu03", features="nvlink", state="drained")
    fake_slurm.answer("sinfo", listed("gpu02", features="nvlink") + others)

    submit(loaded(make_recipe()), cluster, SubmitOptions())

    assert exclusions(fake_slurm) == [[]], "it would wait forever, or be refused"


@pytest.fixture
def profile(make_cluster: MakeCluster, tmp_path: Path) -> str:
    path = tmp_path / "site.yaml"
    path.write_text(yaml.safe_dump(make_cluster().model_dump(mode="json", exclude_unset=True)))
    return str(path)


def test_nodes_are_added_listed_and_forgiven(profile: str) -> None:
    assert launcher("nodes", "list", "--cluster", profile)[0] == "no node gave trouble in the last 7d\n"

    added, _ = launcher("nodes", "add", "gpu07", "gpu08", "--reason", "its fan is loud", "--cluster", profile)
    assert added == "gpu07, gpu08: new jobs avoid them for 7d\n"
    said, _ = launcher("nodes", "list", "--cluster", profile)
    assert "gpu07  avoided until " in said
    assert "added by hand: its fan is loud" in said

    forgiven, _ = launcher("nodes", "forgive", "gpu07", "--cluster", profile)
    assert forgiven == "gpu07: forgiven; new jobs may get it again\n"
    found = json.loads(launcher("nodes", "list", "--json", "--cluster", profile)[0])["nodes"]
    assert [(one["node"], one["is_avoided"]) for one in found] == [("gpu08", True)]


def test_a_list_of_nodes_is_no_node(profile: str) -> None:
    assert "is not the name of one node" in launcher("nodes", "forgive", "gpu[01-04]", "--cluster", profile, code=2)[1]


def test_a_node_of_which_nothing_is_known_cannot_be_forgiven(profile: str, tmp_path: Path) -> None:
    nothing = launcher("nodes", "forgive", "gpu07", "--cluster", profile, code=2)[1]
    launcher("nodes", "add", "gpu08", "--reason", "x", "--cluster", profile)
    reports = sorted((tmp_path / "runs" / ".nodes").iterdir())

    said = launcher("nodes", "forgive", "gpu08", "gpu80", "--cluster", profile, code=2)[1]

    assert nothing == "`gpu07`: nothing was reported of it lately, nor of any other node\n"
    assert said == "`gpu80`: nothing was reported of it lately; there are reports of `gpu08`\n"
    assert sorted((tmp_path / "runs" / ".nodes").iterdir()) == reports  # all of it is refused


@pytest.mark.parametrize("reason", ["", "  "])
def test_a_node_is_not_avoided_without_a_reason(profile: str, tmp_path: Path, reason: str) -> None:
    said = launcher("nodes", "add", "gpu07", "--reason", reason, "--cluster", profile, code=2)[1]

    assert "--reason: is empty" in said
    assert not (tmp_path / "runs").exists()
