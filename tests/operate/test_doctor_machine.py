"""`launcher doctor`: what it says of the machine it runs on; and the command as typed, without a Slurm."""

import json
import sys
from pathlib import Path

import pytest

from launcher.doctor.examine import local_gpu_finding
from launcher.doctor.machine import (
    Folder,
    environment_findings,
    filesystem_of,
    folder_findings,
    look_at,
    python_finding,
    python_findings,
    wandb_findings,
)
from tests.support.command_line import launcher
from tests.support.recipe_files import write
from tests.support.slurm_reports import (
    site,
)

GOOD = Folder(Path("/scratch/runs"), True, True, 5 * 10**12, 10**7, "lustre")


@pytest.mark.parametrize(
    ("folder", "elsewhere", "expected"),
    [
        (GOOD, True, ["ok", "ok"]),
        (Folder(GOOD.path, False, False, 5 * 10**12, 10**7, "lustre"), True, ["problem"]),
        (Folder(GOOD.path, True, True, 10**10, 10**7, "lustre"), True, ["ok", "note"]),
        (Folder(GOOD.path, True, True, 5 * 10**12, 20, "lustre"), True, ["ok", "note"]),
        (Folder(GOOD.path, True, True, 5 * 10**12, None, "ext4"), True, ["note", "ok"]),
        (Folder(GOOD.path, True, True, 5 * 10**12, None, "ext4"), False, ["ok", "ok"]),
    ],
    ids=["fine", "not writable", "full", "no inodes", "a local disk", "nodes are here"],
)
def test_runs_need_a_shared_folder_with_room(folder: Folder, elsewhere: bool, expected: list[str]) -> None:
    assert [found.level for found in folder_findings(folder, elsewhere)] == expected


def test_a_missing_folder_is_judged_by_the_one_above_it(tmp_path: Path) -> None:
    found = look_at(tmp_path / "new" / "runs", "")

    assert (found.exists, found.is_writable) == (False, True)
    assert not look_at(write(tmp_path, "", "file") / "runs", "").is_writable


def test_the_innermost_mount_holds_a_path() -> None:
    mounts = "root / ext4 rw 0 0\nnas:/x /scratch nfs4 rw 0 0\nlocal /scratch/my\\040tmp xfs rw 0 0\n"
    mounts += "disk /scratch/a\u2029b\x85c btrfs rw 0 0\n"

    assert filesystem_of(Path("/home/me"), mounts) == "ext4"
    assert filesystem_of(Path("/scratch/me/runs"), mounts) == "nfs4"
    assert filesystem_of(Path("/scratch/my tmp/x"), mounts) == "xfs"
    assert filesystem_of(Path("/scratch/a\u2029b\x85c/runs"), mounts) == "btrfs"


def test_pythons_are_judged(tmp_path: Path) -> None:
    cluster = site(tmp_path)

    assert python_finding("p", (3, 10), [], cluster).level == "problem"
    assert "lacks torch" in python_finding("p", (3, 12), ["torch"], cluster).what
    with_modules = cluster.model_copy(update={"modules": ("pytorch",)})
    assert python_finding("p", (3, 12), ["torch"], with_modules).level == "note"
    assert python_finding("p", (3, 12), [], cluster).level == "ok"


def test_the_profiles_python_is_asked(tmp_path: Path) -> None:
    here, nowhere = (site(tmp_path).model_copy(update={"python": name}) for name in (sys.executable, "/nowhere/python"))

    (found,) = python_findings(here)
    (missing,) = python_findings(nowhere)

    assert found.what.startswith(f"{sys.version_info[0]}.{sys.version_info[1]}, ")
    assert "does not run on this machine" in missing.what


def test_variables_that_would_change_jobs_are_named() -> None:
    scrubbed, along = environment_findings({"SBATCH_QOS": "x", "SLURM_JOB_ID": "1", "NCCL_DEBUG": "INFO", "HOME": "/h"})

    assert scrubbed.what.endswith(": SBATCH_QOS, SLURM_JOB_ID")
    assert along.what == "goes into every job: NCCL_DEBUG"
    assert [found.level for found in environment_findings({"SLURM_CONF": "/etc/x"})] == ["ok"]


def test_the_key_of_wandb_is_found_and_never_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    secrets = write(tmp_path, "export WANDB_API_KEY=0123456789\n", "secrets")
    secrets.chmod(0o600)
    plain, with_file = site(tmp_path), site(tmp_path).model_copy(update={"secrets_file": str(secrets)})
    rc = write(tmp_path, "machine api.wandb.ai login user password 0123456789\n", "rc")
    rc.chmod(0o600)

    found = [
        next(wandb_findings(plain, {"WANDB_API_KEY": "0123456789"})),
        next(wandb_findings(with_file, {})),
        next(wandb_findings(plain, {"NETRC": str(rc)})),
    ]

    assert [one.level for one in found] == ["ok"] * 3
    assert not any("0123456789" in one.what + one.fix for one in found)
    assert next(wandb_findings(plain, {})).level == "note"
    secrets.write_text("OTHER=a\u2029WANDB_API_KEY=b\x85WANDB_API_KEY=c\n", encoding="utf-8")
    assert next(wandb_findings(with_file, {})).level == "note"
    assert "knows api.forge.coreweave.com" in found[2].what
    newer = write(tmp_path, "machine wandb.uni.example:8443 login user password 0123456789\n", "newer")
    with_port = plain.model_copy(update={"wandb_base_url": "https://wandb.uni.example:8443/wb"})
    assert next(wandb_findings(with_port, {"NETRC": str(newer)})).level == "ok"
    newer.write_text("machine api.forge.coreweave.com login user password 0123456789\n")
    assert next(wandb_findings(plain, {"NETRC": str(newer)})).level == "ok"
    old = {"NETRC": str(newer), "WANDB_BASE_URL": "https://api.wandb.ai"}
    assert next(wandb_findings(plain, old)).level == "note", "W&B's client does not look there for this server"
    own = plain.model_copy(update={"wandb_base_url": "https://wandb.uni.example"})
    assert "wandb.uni.example" in next(wandb_findings(own, {"NETRC": str(rc)})).what
    assert (
        next(wandb_findings(plain, {"NETRC": str(rc), "WANDB_BASE_URL": "https://wandb.uni.example"})).level == "note"
    )


@pytest.mark.parametrize(
    ("gpus", "has", "level"),
    [("{device: cpu}", 0, "ok"), ("{}", 0, "problem"), ("{per_node: 4}", 2, "problem"), ("{per_node: 4}", 4, "ok")],
)
def test_gpus_of_this_machine_are_counted(tmp_path: Path, gpus: str, has: int, level: str) -> None:
    assert local_gpu_finding(site(tmp_path, gpus=gpus), has).level == level


LOCAL = "name: here\nexecutor: local\nroots: {runs: ./r, corpora: ., models: .}\ngpus: {device: cpu}\n"


def test_a_local_profile_is_examined_without_slurm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    path = write(tmp_path, LOCAL, "cluster.yaml")

    said, _ = launcher("doctor", "--cluster", str(path), environ={"COLUMNS": "80"})
    printed, _ = launcher("doctor", "--cluster", str(path), "--json")

    assert "here, no Slurm" in said
    assert max(map(len, said.splitlines())) <= 80
    told = json.loads(printed)
    assert (told["slurm"], told["problems"]) == (None, 0)
    assert {"runs are", "requeue", "runs", "python", "W&B"} <= {found["topic"] for found in told["findings"]}


def test_a_problem_is_exit_code_1(tmp_path: Path) -> None:
    path = write(tmp_path, LOCAL.replace("./r", "./file"), "cluster.yaml")
    write(tmp_path, "", "file")

    said, _ = launcher("doctor", "--cluster", str(path), code=1)

    assert "problem  runs" in said
    assert "1 problem" in said


def test_without_slurm_one_line_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    path = write(tmp_path, LOCAL.replace("executor: local\n", ""), "cluster.yaml")

    said, complaint = launcher("doctor", "--cluster", str(path), code=2)

    assert said == ""
    assert complaint.count("\n") == 1
    assert "`scontrol` is not on PATH" in complaint
