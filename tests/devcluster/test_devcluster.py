"""The parts of the dev cluster that need no Slurm: configuration texts, folders, and care with process ids."""

import dataclasses
import json
import os
import signal
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from launcher.cli.devcluster import app
from launcher.cluster import Cluster
from launcher.devcluster import Shape, config, machine
from launcher.devcluster.config import Settings
from launcher.devcluster.files import check_folder, locked, read_settings, write_files
from launcher.devcluster.layout import Layout
from launcher.devcluster.processes import Process, start, stop, with_descendants
from launcher.errors import LauncherError
from tests.support.waiting import wait_for

LAYOUT = Layout(Path("/srv/dev"))
SETTINGS = Settings(
    shape=Shape(nodes=2, gpus=4),
    version=(22, 5),
    user="ada",
    hostname="box",
    address="127.0.1.1",
    binds_to_address=True,
    controller_port=20001,
    node_ports=(20002, 20003),
    database_port=20004,
)


def with_shape(**changes: Any) -> Settings:
    return dataclasses.replace(SETTINGS, shape=dataclasses.replace(SETTINGS.shape, **changes))


@pytest.fixture
def sleeper() -> Iterator[subprocess.Popen[bytes]]:
    """A process of somebody else."""
    with subprocess.Popen(["sleep", "1000"]) as process:
        yield process
        process.kill()


def test_slurm_conf_gives_each_node_its_own_port() -> None:
    lines = config.slurm_conf(SETTINGS, LAYOUT).splitlines()

    nodes = [line.split()[:4] for line in lines if line.startswith("NodeName=")]
    assert nodes == [
        ["NodeName=a100-01", "NodeHostname=box", "NodeAddr=127.0.1.1", "Port=20002"],
        ["NodeName=a100-02", "NodeHostname=box", "NodeAddr=127.0.1.1", "Port=20003"],
    ]


def test_slurm_conf_names_the_user_for_both_daemons() -> None:
    text = config.slurm_conf(SETTINGS, LAYOUT)

    assert "SlurmUser=ada\nSlurmdUser=ada\n" in text


def test_daemons_bind_to_loopback_only_where_the_host_name_means_loopback() -> None:
    elsewhere = dataclasses.replace(SETTINGS, address="127.0.0.1", binds_to_address=False)

    assert "NoInAddrAny" in config.slurm_conf(SETTINGS, LAYOUT)
    assert "NoInAddrAny" not in config.slurm_conf(elsewhere, LAYOUT)


def test_accounting_is_configured_only_when_asked_for() -> None:
    without = config.slurm_conf(SETTINGS, LAYOUT)
    with_accounting = config.slurm_conf(with_shape(accounting=True), LAYOUT)

    assert "AccountingStorageType=accounting_storage/none" in without
    assert "AccountingStoragePort=20004" in with_accounting


@pytest.mark.parametrize(
    ("version", "text"),
    [
        ((21, 8), ""),
        ((22, 5), "CgroupPlugin=cgroup/v1\n"),
        ((23, 11), "CgroupPlugin=cgroup/v1\n"),
        ((24, 5), "CgroupPlugin=disabled\n"),
    ],
)
def test_cgroups_are_avoided_in_the_way_each_release_knows(version: tuple[int, int], text: str) -> None:
    assert config.cgroup_conf(dataclasses.replace(SETTINGS, version=version)) == text


@pytest.mark.parametrize(("gpus", "files"), [(1, "/srv/dev/dev/gpu0"), (4, "/srv/dev/dev/gpu[0-3]")])
def test_gres_conf_names_one_file_a_gpu(gpus: int, files: str) -> None:
    assert config.gres_conf(with_shape(gpus=gpus), LAYOUT).endswith(f" File={files}\n")


def test_the_cluster_profile_is_a_valid_one() -> None:
    profile = Cluster.model_validate_json(json.dumps(yaml.safe_load(config.cluster_profile(SETTINGS, LAYOUT))))

    assert profile.slurm.conf == "/srv/dev/slurm.conf"
    assert profile.slurm.partition == "preempt"
    assert profile.gpus.per_node == 4
    assert profile.gpus.device == "cpu"


def test_jobs_and_daemons_use_different_ports() -> None:
    assert not set(config.RENDEZVOUS_PORTS) & set(config.DAEMON_PORTS)


def test_settings_survive_the_folder(tmp_path: Path) -> None:
    layout = Layout(tmp_path / "dev")

    write_files(SETTINGS, layout)

    assert read_settings(layout) == SETTINGS


def test_only_the_owner_may_read_the_munge_key_and_slurmdbd_conf(tmp_path: Path) -> None:
    layout = Layout(tmp_path / "dev")

    write_files(SETTINGS, layout)

    secret = (layout.munge_key, layout.folder / "slurmdbd.conf")
    assert [path.stat().st_mode & 0o777 for path in secret] == [0o600, 0o600]


def test_writing_the_files_again_keeps_the_munge_key(tmp_path: Path) -> None:
    layout = Layout(tmp_path / "dev")
    write_files(SETTINGS, layout)
    key = layout.munge_key.read_bytes()

    write_files(SETTINGS, layout)

    assert layout.munge_key.read_bytes() == key


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        (Shape(nodes=0), "--nodes: 0 is out of range; write a number from 1 to 64"),
        (Shape(gpus=17), "--gpus: 17 is out of range; write a number from 1 to 16"),
    ],
)
def test_impossible_shapes_are_refused(shape: Shape, message: str) -> None:
    with pytest.raises(LauncherError, match=message):
        shape.check()


def test_a_folder_too_deep_for_sockets_is_refused() -> None:
    deep = Layout(Path("/" + "d" * 70))

    with pytest.raises(LauncherError, match=r"is \d+ bytes too long.*give a shorter --dir"):
        deep.check_socket_paths()


def test_a_folder_that_just_fits_is_accepted() -> None:
    Layout(Path("/" + "d" * 57)).check_socket_paths()


def test_a_folder_with_other_files_is_refused(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").touch()

    with pytest.raises(LauncherError, match="holds other files; give an empty folder"):
        check_folder(Layout(tmp_path))


@pytest.mark.parametrize("name", ["my cluster", "a#b", 'a"b', "50%n", "a\nb"])
def test_a_folder_that_slurm_conf_cannot_name_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(LauncherError, match=r"which paths in slurm\.conf cannot hold; give a folder without them"):
        check_folder(Layout(tmp_path / name))


def test_missing_programs_are_named_with_their_packages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(machine, "SBIN_FOLDERS", str(tmp_path))

    with pytest.raises(LauncherError, match=r"`munged`.*apt-get install munge slurmctld.*dnf install munge slurm-"):
        machine.check_programs(accounting=False)


def test_a_taken_port_is_not_chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
        monkeypatch.setattr(machine, "DAEMON_PORTS", range(port, port + 1))

        with pytest.raises(LauncherError, match="fewer than 3 free ports"):
            machine.new_settings(Shape(nodes=1))


def test_a_recorded_process_is_found_again(tmp_path: Path, sleeper: subprocess.Popen[bytes]) -> None:
    process = Process.of(sleeper.pid)
    assert process is not None

    process.write(tmp_path / "record.json")

    assert Process.read(tmp_path / "record.json") == process


def test_a_process_id_that_now_belongs_to_another_is_never_signalled(sleeper: subprocess.Popen[bytes]) -> None:
    process = Process.of(sleeper.pid)
    assert process is not None

    stop([dataclasses.replace(process, started=process.started - 1)], patience=1)
    stop([dataclasses.replace(process, boot="another boot")], patience=1)

    assert sleeper.poll() is None


def test_a_torn_record_counts_as_none(tmp_path: Path) -> None:
    (tmp_path / "record.json").write_text('{"pid": 1')

    assert Process.read(tmp_path / "record.json") is None


def test_a_daemon_that_ignores_sigterm_is_killed(tmp_path: Path) -> None:
    output = tmp_path / "output"
    process = start(["/bin/sh", "-c", "trap '' TERM; echo ready; while :; do sleep 0.1; done"], {}, output)
    wait_for(lambda: "ready" in output.read_text(), "the daemon to ignore SIGTERM")

    stop([process], patience=0.2)

    assert not process.is_alive


def test_descendants_include_grandchildren(tmp_path: Path) -> None:
    output = tmp_path / "output"
    process = start(["/bin/sh", "-c", "(sleep 1000; :) & wait"], {"PATH": "/usr/bin:/bin"}, output)

    family = wait_for(
        lambda: found if len(found := with_descendants([process.pid])) == 3 else set(), "shell, subshell and sleep"
    )

    for member in (Process.of(pid) for pid in family):
        if member is not None:
            member.send(signal.SIGKILL)


def test_status_of_an_empty_folder_says_how_to_start(tmp_path: Path) -> None:
    shown = CliRunner().invoke(app, ["status", "--dir", str(tmp_path)]).output

    assert f"start one with `launcher devcluster up --dir {tmp_path}`" in shown


def test_commands_for_a_cluster_that_does_not_run_are_refused(tmp_path: Path) -> None:
    result = CliRunner().invoke(app, ["preempt", "--dir", str(tmp_path)])

    assert isinstance(result.exception, LauncherError)
    assert f"start one with `launcher devcluster up --dir {tmp_path}`" in str(result.exception)


@pytest.mark.parametrize("words", [("--nodes", "0"), ("--nodes", "-1"), ("--minutes", "-1")])
def test_a_preemption_takes_at_least_one_node_and_no_negative_time(tmp_path: Path, words: tuple[str, str]) -> None:
    result = CliRunner().invoke(app, ["preempt", "--dir", str(tmp_path), *words])

    assert result.exit_code == 2
    assert f"Invalid value for '{words[0]}'" in result.output


OLDER = {name: value for name, value in dataclasses.asdict(SETTINGS).items() if name != "address"}


@pytest.mark.parametrize(
    "content", [b"{}", b"[]", b"3", b'{"version": 1}', b"no JSON", b"\xff", json.dumps(OLDER).encode()]
)
@pytest.mark.parametrize("command", ["status", "down", "preempt"])
def test_the_settings_of_something_else_are_refused(tmp_path: Path, content: bytes, command: str) -> None:
    (tmp_path / "settings.json").write_bytes(content)

    result = CliRunner().invoke(app, [command, "--dir", str(tmp_path)])

    assert isinstance(result.exception, LauncherError)
    assert "/settings.json` is not from this version of `launcher devcluster`; give another --dir" in str(
        result.exception
    )
    with pytest.raises(LauncherError, match="is not from this version"):
        check_folder(Layout(tmp_path))
    assert (tmp_path / "settings.json").read_bytes() == content


def test_a_slurmctld_that_does_not_run_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "slurmctld").write_text("#!/bin/sh\necho 22.05 of another libc >&2\nexit 127\n")
    (tmp_path / "slurmctld").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")

    with pytest.raises(LauncherError, match=r"printed no version: `22\.05 of another libc`"):
        machine.slurm_version()


@pytest.fixture
def two_users(stranger: Path) -> Path:
    """A folder of an ordinary user, as whom this process acts; it can act as root again."""
    if os.getuid() != 0:
        pytest.skip("needs two users: run it as root")
    return stranger


def make_foreign(*paths: Path) -> None:
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("{}")
    me = os.geteuid()
    os.seteuid(0)
    for path in paths:
        os.chown(path, 0, -1)
    os.seteuid(me)


@pytest.mark.parametrize("was_there", [False, True])
def test_the_folder_of_an_ordinary_user_is_closed_to_others(two_users: Path, was_there: bool) -> None:
    layout = Layout(two_users / "above" / "dev")
    if was_there:
        layout.folder.mkdir(parents=True, mode=0o755)

    check_folder(layout)
    with locked(layout):
        write_files(SETTINGS, layout)

    assert layout.folder.stat().st_mode & 0o777 == 0o700


@pytest.mark.skipif(os.geteuid() != 0, reason="only slurmd of root runs jobs as those who submitted them")
@pytest.mark.parametrize("mask", [0o022, 0o027])
def test_the_folder_of_root_is_as_open_as_its_umask_says(tmp_path: Path, mask: int) -> None:
    layout = Layout(tmp_path / "dev")
    before = os.umask(mask)
    try:
        with locked(layout):
            write_files(SETTINGS, layout)
    finally:
        os.umask(before)

    assert layout.folder.stat().st_mode & 0o777 == 0o777 & ~mask


@pytest.mark.parametrize("name", ["settings.json", "munge/key"])
def test_what_another_user_has_put_there_is_refused(two_users: Path, name: str) -> None:
    layout = Layout(two_users / "dev")
    make_foreign(layout.folder / name)

    with pytest.raises(LauncherError, match=rf"dev/{name}` is another user's; give another --dir"):
        check_folder(layout)


def test_the_folder_of_another_user_is_refused(two_users: Path) -> None:
    layout = Layout(two_users / "dev")
    make_foreign(layout.settings)
    os.seteuid(0)
    os.chown(layout.folder, 0, -1)
    layout.folder.chmod(0o700)
    os.seteuid(two_users.stat().st_uid)

    for refused in (check_folder, lambda layout: locked(layout).__enter__(), read_settings):
        with pytest.raises(LauncherError, match="dev` is another user's; give another --dir"):
            refused(layout)
