"""Options of sbatch that a profile passes on."""

from pathlib import Path

import pytest

from launcher.cluster import _OWN_OPTIONS
from launcher.run.paths import SubmissionDir
from launcher.slurm.allocation import allocation_options
from launcher.submit.render import Request, render
from tests.support.fake_slurm import directives
from tests.support.recipe_files import PROFILE, find_profile_faults, profile, summarise
from tests.support.submissions import MakeCluster, MakeRecipe

SUBMISSION = SubmissionDir(Path("/runs/.submissions/0a1b2c3d-1"))


def with_options(text: str) -> str:
    return f"{PROFILE}slurm:\n  options:\n    {text}\n"


def script_of(make_cluster: MakeCluster, recipe: object, options: object) -> str:
    cluster = make_cluster(slurm={"options": options})
    return render(Request((recipe,)), cluster, SUBMISSION, Path("/code"), "python3")  # type: ignore[arg-type]


@pytest.mark.parametrize("name", sorted(_OWN_OPTIONS))
def test_what_the_launcher_sets_itself_is_refused(tmp_path: Path, name: str) -> None:
    [fault] = find_profile_faults(tmp_path, with_options(f"{name}: x"))

    assert summarise([fault]) == [f"profile.yaml:5 invalid-value slurm.options.{name}"]
    assert f"sets `--{name}` itself" in fault.message


@pytest.mark.parametrize(
    ("text", "fix"),
    [
        ("mem: 4G", "write `resources.memory` in the recipe"),
        ("time: 1h", "write `resources.time` in the recipe"),
        ("partition: gpu", "write `slurm.partition`"),
        ("account: gpu", "write `slurm.account`"),
        ("partit: gpu", "sets `--partition` itself"),
        ("mail-user: me", "write `mail.address`"),
        ("dependency: afterok:1", "write `launcher submit --after`"),
        ("-L: matlab", "write one such as `mem-per-cpu`"),
        ("mem_per_cpu: 4G", "write one such as `mem-per-cpu`"),
        ("exclusive: false", "write `true` for an option without one"),
        ('licenses: ""', "write `true` for an option without one"),
        ("exclusive: yes", ""),
        ("gres: gpu:4", "write `gpus.type`"),
    ],
)
def test_a_refused_option_names_the_fix(tmp_path: Path, text: str, fix: str) -> None:
    if fix:
        [fault] = find_profile_faults(tmp_path, with_options(text))
        assert fault.line == 5 and fix in fault.message
    else:
        assert profile(tmp_path, with_options(text)).slurm.options == {"exclusive": "yes"}


def test_all_refused_options_are_told_at_once(tmp_path: Path) -> None:
    faults = find_profile_faults(tmp_path, with_options("time: 1h\n    mem: 4G\n    licenses: [a]"))

    assert [fault.key for fault in faults] == [f"slurm.options.{name}" for name in ("time", "mem", "licenses")]


def test_memory_of_the_recipe_replaces_that_of_the_profile(make_cluster: MakeCluster, make_recipe: MakeRecipe) -> None:
    options = {"mem-per-cpu": "4G", "licenses": "matlab:1"}
    wants = {"cpus_per_task": 1, "time": "1h"}

    without = directives(script_of(make_cluster, make_recipe(resources=wants), options))
    with_memory = directives(script_of(make_cluster, make_recipe(resources=wants | {"memory": "8GiB"}), options))

    assert (without.get("mem-per-cpu"), without.get("mem")) == ("4G", None)
    assert (with_memory.get("mem-per-cpu"), with_memory.get("mem")) == (None, "8192M")


def test_further_gres_are_asked_for_beside_gpus_or_alone(
    make_cluster: MakeCluster, make_recipe: MakeRecipe, make_cpt: MakeRecipe
) -> None:
    options, trains = {"gres": "lscratch:10"}, make_cpt(resources={"time": "1h", "gpus_per_node": 2})

    assert directives(script_of(make_cluster, make_recipe(), options))["gres"] == "lscratch:10"
    assert directives(script_of(make_cluster, trains, options))["gres"] == "gpu:2,lscratch:10"


def test_debug_asks_salloc_for_them_too_but_for_those_it_does_not_know(
    make_cluster: MakeCluster, make_recipe: MakeRecipe
) -> None:
    options = {"licenses": "a b\\c", "exclusive": True, "propagate": "NONE"}

    asked = allocation_options(script_of(make_cluster, make_recipe(), options))

    assert {"--licenses=a b\\c", "--exclusive"} <= set(asked)
    assert not [option for option in asked if "propagate" in option]
