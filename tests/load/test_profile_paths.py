"""Paths in a cluster profile that lead nowhere, and `~` in all of them."""

from pathlib import Path

import pytest

from launcher.load.profile import profile_folders
from tests.support.recipe_files import PROFILE, find_profile_faults, profile, summarise

NOBODY = "~nobody-here/x"


@pytest.mark.parametrize(
    ("line", "key"),
    [
        (f"python: {NOBODY}", "python"),
        (f"secrets_file: {NOBODY}", "secrets_file"),
        (f"slurm: {{conf: {NOBODY}}}", "slurm.conf"),
        (f"engines: {{vllm: {NOBODY}}}", "engines.vllm"),
        (f"container: {{runtime: apptainer, image: {NOBODY}}}", "container.image"),
        (f"container: {{runtime: pyxis, image: i, python: {NOBODY}}}", "container.python"),
        (f"container: {{runtime: pyxis, image: i, mounts: [/a, {NOBODY}]}}", "container.mounts.1"),
    ],
)
def test_the_home_of_an_unknown_user_is_a_fault_at_the_key(tmp_path: Path, line: str, key: str) -> None:
    found = find_profile_faults(tmp_path, f"{PROFILE}{line}\n")

    assert summarise(found) == [f"profile.yaml:3 not-found {key}"]
    assert found[0].message == f"`{NOBODY}`: there is no user `nobody-here`; write the folder without `~`"


@pytest.mark.parametrize("root", ["runs", "data", "corpora", "models"])
def test_so_it_is_with_each_root_also_behind_a_variable(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, root: str
) -> None:
    monkeypatch.setenv("WHERE", NOBODY)
    for written in (NOBODY, "$WHERE"):
        [found] = find_profile_faults(tmp_path, PROFILE.replace(f"{root}: /{root[0]}", f"{root}: {written}"))
        assert summarise([found]) == [f"profile.yaml:2 not-found roots.{root}"]
        assert "there is no user `nobody-here`" in found.message


def test_variables_are_looked_up_in_each_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ENVS", raising=False)
    container = "{runtime: apptainer, image: $ENVS/i.sif, python: '${ENVS}/python', mounts: [$ENVS]}"
    text = f"{PROFILE}python: $ENVS/bin/python\nengines: {{vllm: $ENVS/bin/python}}\ncontainer: {container}\n"

    assert summarise(find_profile_faults(tmp_path, text)) == [
        "profile.yaml:3 not-found python",
        "profile.yaml:4 not-found engines.vllm",
        "profile.yaml:5 not-found container.image",
        "profile.yaml:5 not-found container.python",
        "profile.yaml:5 not-found container.mounts.0",
    ]


def test_the_python_of_the_nodes_is_written_without_tilde_and_variables(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A script quotes it, so that no shell of a node would expand them."""
    monkeypatch.setenv("HOME", "/home/me")
    monkeypatch.setenv("ENVS", "/envs")

    written = ["~/env/bin/python", "$ENVS/bin/python", "python3", "/usr/bin/python3"]
    found = [profile(tmp_path, f"{PROFILE}python: {one}\n").python for one in written]

    assert found == ["/home/me/env/bin/python", "/envs/bin/python", "python3", "/usr/bin/python3"]


@pytest.mark.parametrize(
    ("runtime", "written", "image"),
    [
        ("apptainer", "$IMAGES/train.sif", "/images/train.sif"),
        ("apptainer", "~/${NAME}.sif", "/home/me/train.sif"),
        ("apptainer", "images/train.sif", "PROFILE/images/train.sif"),
        ("apptainer", "docker://org/train", "docker://org/train"),
        ("apptainer", "/images/train.sif", "/images/train.sif"),
        ("pyxis", "$IMAGES/train.sqsh", "/images/train.sqsh"),
        ("pyxis", "~/train.sqsh", "/home/me/train.sqsh"),
        ("pyxis", "./train.sqsh", "PROFILE/train.sqsh"),
        ("pyxis", "nvcr.io#nvidia/pytorch:25.08-py3", "nvcr.io#nvidia/pytorch:25.08-py3"),
        ("pyxis", "org/train", "org/train"),
    ],
)
def test_an_image_that_is_a_file_is_written_with_its_whole_path(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, runtime: str, written: str, image: str
) -> None:
    """Neither `apptainer exec` nor srun expands anything."""
    monkeypatch.setenv("HOME", "/home/me")
    monkeypatch.setenv("IMAGES", "/images")
    monkeypatch.setenv("NAME", "train")

    container = profile(tmp_path, f"{PROFILE}container: {{runtime: {runtime}, image: '{written}'}}\n").container

    assert container is not None
    assert container.image == image.replace("PROFILE", str(tmp_path))


def test_python_and_mounts_of_an_image_are_found_by_tilde_and_variables(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ENVS", "/envs")
    line = "container: {runtime: pyxis, image: org/train, python: $ENVS/bin/python, mounts: [/data, more]}"

    container = profile(tmp_path, f"{PROFILE}{line}\n").container

    assert container is not None
    assert container.python == "/envs/bin/python"
    assert container.mounts == ("/data", f"{tmp_path}/more")


@pytest.mark.parametrize(
    ("line", "key"),
    [
        ("python: ''", "python"),
        ("secrets_file: ' '", "secrets_file"),
        ("slurm: {conf: ''}", "slurm.conf"),
        ("engines: {vllm: ''}", "engines.vllm"),
        ("container: {runtime: apptainer, image: ''}", "container.image"),
    ],
)
def test_an_empty_path_is_refused(tmp_path: Path, line: str, key: str) -> None:
    [found] = find_profile_faults(tmp_path, f"{PROFILE}{line}\n")

    assert summarise([found]) == [f"profile.yaml:3 invalid-value {key}"]
    assert found.message.startswith("is empty; write a path")


@pytest.mark.parametrize("root", ["runs", "data", "corpora", "models"])
def test_an_empty_root_is_not_the_folder_of_the_profile(tmp_path: Path, root: str) -> None:
    [found] = find_profile_faults(tmp_path, PROFILE.replace(f"{root}: /{root[0]}", f"{root}: ''"))

    assert summarise([found]) == [f"profile.yaml:2 invalid-value roots.{root}"]


def test_who_has_no_home_has_no_profiles_there(monkeypatch: pytest.MonkeyPatch) -> None:
    there = profile_folders()
    monkeypatch.delenv("HOME")
    monkeypatch.setattr("os.getuid", lambda: 2**31 - 5)

    assert len(there) == 3 and profile_folders() == [there[0], there[2]]
