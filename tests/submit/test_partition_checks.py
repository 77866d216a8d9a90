"""What a partition can never start is refused before it is queued."""

from typing import Any

import pytest

from launcher.cluster import Cluster
from launcher.errors import Fault, RecipeError
from launcher.load import LoadedRecipe
from launcher.submit.partition_checks import find_unstartable, parse_partition_limits
from launcher.submit.plan_submission import SubmitOptions, plan_submission
from tests.support.fake_slurm import FakeSlurm
from tests.support.recipe_files import summarise
from tests.support.submissions import MakeCluster, MakeRecipe, all_runs, loaded, submit

LIMITS = """\
cpu*|1-12:00:00|1-infinite|5|(null)
gpu|2:00:00|1-3|2|gpu:a100:4(S:0-1)
gpu|2:00:00|1-3|6|gpu:a100:2,gpu:v100:2
long|infinite|1-infinite|1|gpu:a100:4
"""
"""As `sinfo` of Slurm 22.05 prints it."""
PARTITIONS = """\
PartitionName=cpu Default=YES MaxTime=1-12:00:00 State=UP TotalNodes=5
PartitionName=gpu Default=NO MaxTime=02:00:00 State=UP TotalNodes=8
PartitionName=long Default=NO MaxTime=UNLIMITED State=UP TotalNodes=1
"""


def unstartable(recipes: list[LoadedRecipe], cluster: Cluster) -> list[Fault]:
    return [fault for _, fault in find_unstartable(recipes, cluster)]


@pytest.fixture
def site(fake_slurm: FakeSlurm) -> FakeSlurm:
    fake_slurm.answer("sinfo", LIMITS)
    fake_slurm.answer("partitions", PARTITIONS)
    return fake_slurm


@pytest.mark.parametrize(
    ("profile", "resources", "key"),
    [
        # On any partition an hour and a node without GPUs, unless this says otherwise.
        ({}, {"time": "36h"}, None),
        ({}, {"time": "37h"}, "resources.time"),
        ({}, {"gpus_per_node": 1}, "resources.gpus_per_node"),
        ({}, {"nodes": 6}, "resources.nodes"),
        ({"slurm": {"partition": "gpu"}}, {"nodes": 4, "gpus_per_node": 4}, "resources.nodes"),
        ({"slurm": {"partition": "gpu"}}, {"nodes": 2, "gpus_per_node": 4}, None),
        (
            {"slurm": {"partition": "gpu"}, "gpus": {"type": "a100"}},
            {"nodes": 3, "gpus_per_node": 4},
            "resources.nodes",
        ),
        ({"slurm": {"partition": "gpu"}, "gpus": {"type": "v100"}}, {"gpus_per_node": 4}, "resources.gpus_per_node"),
        ({"slurm": {"partition": "gpu"}}, {"time": "2h1s"}, "resources.time"),
        ({"slurm": {"partition": "gpu,long"}}, {"time": "9d"}, None),
    ],
)
def test_what_no_partition_of_the_profile_can_start_is_found(
    site: FakeSlurm, make_cluster: MakeCluster, make_cpt: MakeRecipe, profile: Any, resources: Any, key: str | None
) -> None:
    if names := profile.get("slurm", {}).get("partition"):
        lines = [line for line in LIMITS.splitlines() if line.partition("|")[0] in names.split(",")]
        site.answer("sinfo", "\n".join(lines) + "\n")
    recipe = make_cpt(
        resources={"time": "1h", "nodes": 1, "gpus_per_node": 0, **resources},
        batch={"global_batch": "48 sequences", "sequence_length": 64},
    )

    found = unstartable(loaded(recipe), make_cluster(**profile))

    assert summarise(found) == ([f"recipe.yaml site-limit {key}"] if key else [])


def test_the_message_says_what_the_partition_has_and_nothing_is_queued(
    site: FakeSlurm, make_cluster: MakeCluster, make_recipe: MakeRecipe
) -> None:
    cluster = make_cluster()
    recipe = make_recipe(resources={"cpus_per_task": 1, "time": "2d"})

    with pytest.raises(RecipeError, match="`2d` is more than partition `cpu` allows; write at most `1d12h`"):
        plan_submission(loaded(recipe), cluster, SubmitOptions())

    assert not all_runs(cluster)
    plan_submission(loaded(recipe), cluster, SubmitOptions(check=False))
    assert len(site.calls("sinfo")) == 1


@pytest.mark.parametrize(("qos", "is_refused"), [("long", False), ("normal", True), (None, False)])
def test_a_quality_of_service_may_lift_the_limits(
    site: FakeSlurm, make_cluster: MakeCluster, make_recipe: MakeRecipe, qos: str | None, is_refused: bool
) -> None:
    site.answer("sacctmgr", "normal|DenyOnLimit\nlong|DenyOnLimit,PartitionTimeLimit\n")
    recipe = make_recipe(resources={"cpus_per_task": 1, "time": "2d"})

    faults = unstartable(loaded(recipe), make_cluster(slurm={"qos": qos} if qos else {}))

    assert bool(faults) == is_refused


def test_a_site_that_does_not_answer_is_not_judged(
    site: FakeSlurm, make_cluster: MakeCluster, make_recipe: MakeRecipe
) -> None:
    site.fail("sinfo", 1, "slurm_load_partitions: Unable to contact slurm controller")
    recipe = make_recipe(resources={"cpus_per_task": 1, "time": "9d"})

    assert len(submit(loaded(recipe), make_cluster(), SubmitOptions())) == 1
    assert unstartable(loaded(recipe), make_cluster(executor="local")) == []


def test_a_partition_whose_nodes_are_not_all_shown_is_not_judged_by_them(
    site: FakeSlurm, make_cluster: MakeCluster, make_cpt: MakeRecipe
) -> None:
    recipe = make_cpt(resources={"time": "1h", "nodes": 8, "gpus_per_node": 1})
    cluster = make_cluster()
    assert len(unstartable(loaded(recipe), cluster)) == 2

    site.answer("partitions", PARTITIONS.replace("TotalNodes=5", "TotalNodes=100"))

    assert unstartable(loaded(recipe), cluster) == []


def test_limits_are_read_from_what_sinfo_prints() -> None:
    cpu, gpu, long = parse_partition_limits(LIMITS)

    assert (cpu.name, cpu.is_default, cpu.max_seconds, cpu.max_nodes) == ("cpu", True, 36 * 3600, None)
    assert (gpu.max_seconds, gpu.max_nodes, gpu.count_nodes(), gpu.most_gpus("v100")) == (7200, 3, 8, 2)
    assert long.max_seconds is None
