"""Batch scripts: what Slurm and the shell understand, whatever the names."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from launcher.cluster import Cluster
from launcher.recipe import Recipe
from launcher.run.paths import SubmissionDir
from launcher.submit.render import Request, group, render, slug
from tests.support.fake_slurm import directives

HOSTILE = ["it's", 'say "hi"', "a; touch pwned", "two\nlines", "$(touch pwned)", "`touch pwned`", "back\\slash", "# no"]
SUBMISSION, CODE = SubmissionDir(Path("/runs/.submissions/ab-1")), Path("/runs/.code/cd")
MakeCluster = Callable[..., Cluster]
MakeRecipe = Callable[..., Recipe]


def script_of(cluster: Cluster, *recipes: Recipe, folder: SubmissionDir = SUBMISSION) -> str:
    return render(Request(recipes), cluster, folder, CODE, "/opt/python")


def check_shell(script: str) -> None:
    argv = [Path(sys.executable).with_name("shellcheck"), "--shell=bash", "-"]
    done = subprocess.run(argv, input=script, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


def run_shell(script: str, folder: Path) -> str:
    """Run all but the last line, then print the environment."""
    head = script[: script.rindex("\nexec ")]
    argv = ["bash", "-c", head + "\ncd " + str(folder) + "\nenv -0"]
    return subprocess.run(argv, capture_output=True, text=True, check=True, cwd=folder).stdout


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_name_reaches_slurm_as_it_is_and_the_shell_never(
    name: str, make_cluster: MakeCluster, make_recipe: MakeRecipe
) -> None:
    script = script_of(make_cluster(), make_recipe(name=name))

    check_shell(script)
    assert slurm_reads(script)["job-name"] == name.replace("\n", "-")


@pytest.mark.parametrize("value", HOSTILE)
def test_a_hostile_environment_value_arrives_unchanged(
    value: str, tmp_path: Path, make_cluster: MakeCluster, make_recipe: MakeRecipe
) -> None:
    script = script_of(make_cluster(environment={"GREETING": value}), make_recipe())

    check_shell(script)
    assert f"GREETING={value}" in run_shell(script, tmp_path).split("\0")
    assert not list(tmp_path.rglob("pwned"))


def test_a_hostile_folder_is_quoted_for_slurm_and_shell(
    hostile_path: Path, make_cluster: MakeCluster, make_recipe: MakeRecipe
) -> None:
    script = script_of(make_cluster(), make_recipe(), folder=SubmissionDir(hostile_path))

    check_shell(script)
    assert slurm_reads(script)["chdir"] == str(hostile_path)
    assert slurm_reads(script)["output"] == str(hostile_path).replace("%", "%%") + "/slurm-%j.log"


def slurm_reads(script: str) -> dict[str, str]:
    """Read `#SBATCH` lines as sbatch does: like a shell, but a backslash escapes inside all quotes."""
    return directives(script.replace("\\\\", "\\"))


@pytest.mark.parametrize(
    ("gpus", "asked"),
    [
        ({"style": "gres"}, {"gres": "gpu:4"}),
        ({"style": "gres", "type": "a100"}, {"gres": "gpu:a100:4"}),
        ({"style": "gpus-per-node"}, {"gpus-per-node": "4"}),
        ({"style": "gpus-per-node", "type": "h100"}, {"gpus-per-node": "h100:4"}),
    ],
)
def test_gpus_are_asked_for_in_the_style_of_the_site(
    gpus: dict[str, str], asked: dict[str, str], make_cluster: MakeCluster, make_cpt: MakeRecipe
) -> None:
    recipe = make_cpt(resources={"gpus_per_node": 4, "nodes": 2, "time": "1d2h3min4s", "memory": "1GB"})

    options = directives(script_of(make_cluster(gpus=gpus), recipe))

    assert asked.items() <= options.items()
    assert (options["nodes"], options["ntasks-per-node"]) == ("2", "4")
    assert (options["time"], options["mem"]) == ("1-02:03:04", "954M")


def test_every_option_of_the_site_becomes_a_directive(make_cluster: MakeCluster, make_recipe: MakeRecipe) -> None:
    site = {
        "partition": "gpu",
        "account": "bio",
        "qos": "long",
        "reservation": "course",
        "constraint": "a100&nvlink",
        "exclude": "gpu[03,07]",
    }
    mail = {"address": "someone@example.org", "events": ["end", "time_limit_80"]}

    script = script_of(make_cluster(slurm=site | {"lead": "2min", "requeue": "resubmit"}, mail=mail), make_recipe())

    options = directives(script)
    assert site.items() <= options.items()
    assert (options["mail-user"], options["mail-type"]) == ("someone@example.org", "END,TIME_LIMIT_80")
    assert options["signal"] == "B:USR1@120"
    assert "no-requeue" in options
    assert "requeue" not in options
    check_shell(script)


def test_a_plain_profile_asks_for_nothing_it_does_not_name(make_cluster: MakeCluster, make_recipe: MakeRecipe) -> None:
    script = script_of(make_cluster(), make_recipe())

    unnamed = {"partition", "account", "mem", "gres", "gpus-per-node", "mail-user", "array", "wckey", "no-kill"}
    assert not unnamed & directives(script).keys()
    assert "module" not in script
    assert "SLURM_CONF" not in script
    assert script.splitlines()[0] == "#!/bin/bash"


def test_the_snapshot_comes_before_the_users_own_python_path(
    tmp_path: Path, make_cluster: MakeCluster, make_recipe: MakeRecipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", "/mine")

    environment = run_shell(script_of(make_cluster(), make_recipe()), tmp_path).split("\0")

    assert f"PYTHONPATH={CODE}:/mine" in environment


def test_only_credentialed_runs_get_a_private_umask(make_cluster: MakeCluster, make_recipe: MakeRecipe) -> None:
    assert "umask 077" in script_of(make_cluster(), make_recipe(data_use="credentialed"))
    assert "umask" not in script_of(make_cluster(), make_recipe())


def test_recipes_are_grouped_by_what_they_want_and_cut_at_the_limit(make_cpt: MakeRecipe) -> None:
    small, big = {"time": "1h"}, {"time": "1h", "nodes": 2}
    recipes = [make_cpt(resources=wants) for wants in (small, big, small, small, small)]

    assert group(recipes, limit=3) == [[0, 2, 3], [4], [1]]


def test_credentialed_and_open_runs_never_share_a_submission(make_recipe: MakeRecipe) -> None:
    recipes = [make_recipe(), make_recipe(data_use="credentialed")]

    assert group(recipes, limit=10) == [[0], [1]]


@pytest.mark.parametrize(
    ("name", "expected"),
    [("BioMed LLaMA", "BioMed-LLaMA"), ("../x", "x"), ("模型", ""), ("a\nb", "a-b"), (".hidden", "hidden")],
)
def test_slugs_are_safe_parts_of_folder_names(name: str, expected: str) -> None:
    assert slug(name) == expected


def test_rendering_is_a_pure_function(make_cluster: MakeCluster, make_recipe: MakeRecipe) -> None:
    arguments: tuple[Any, ...] = (make_cluster(), make_recipe())

    assert script_of(*arguments) == script_of(*arguments)
