"""How much memory is left: of the machine, or of the groups that a process is in, whichever allows less."""

from pathlib import Path

import psutil
import pytest

from jobs.rank.host_memory import available_memory

GB = 10**9


@pytest.fixture(autouse=True)
def _machine(monkeypatch: pytest.MonkeyPatch) -> None:
    machine = psutil.virtual_memory()._replace(available=64 * GB)
    monkeypatch.setattr(psutil, "virtual_memory", lambda: machine)


def group(folder: Path, limit: str, used: int, cached: int) -> None:
    """Files of a group as kernels of version 2 show them."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "memory.max").write_text(f"{limit}\n")
    (folder / "memory.current").write_text(f"{used}\n")
    (folder / "memory.stat").write_text(f"anon {used - cached}\ninactive_file {cached}\nactive_file 0\n")


def left(tmp_path: Path, lines: str) -> int:
    (tmp_path / "proc").write_text(lines)
    return available_memory(tmp_path / "proc", tmp_path)


def test_without_limits_it_is_what_the_machine_has(tmp_path: Path) -> None:
    group(tmp_path / "job", "max", 3 * GB, 0)

    assert left(tmp_path, "0::/job\n") == 64 * GB


def test_a_limit_of_slurm_counts_without_what_files_hold(tmp_path: Path) -> None:
    group(tmp_path / "slurm" / "job" / "step", "max", 20 * GB, 0)
    group(tmp_path / "slurm" / "job", str(32 * GB), 30 * GB, 8 * GB)
    group(tmp_path / "slurm", str(60 * GB), 31 * GB, 8 * GB)

    assert left(tmp_path, "0::/slurm/job/step\n") == 10 * GB


def test_a_container_that_shows_its_own_group_as_the_root(tmp_path: Path) -> None:
    group(tmp_path, str(8 * GB), 7 * GB, 0)

    assert left(tmp_path, "0::/\n") == 1 * GB


def test_the_files_of_version_1_are_read(tmp_path: Path) -> None:
    folder = tmp_path / "memory" / "slurm" / "job"
    folder.mkdir(parents=True)
    (folder / "memory.limit_in_bytes").write_text(f"{4 * GB}\n")
    (folder / "memory.usage_in_bytes").write_text(f"{3 * GB}\n")
    (folder / "memory.stat").write_text(f"cache 5\ntotal_inactive_file {GB}\n")

    assert left(tmp_path, "7:cpu,cpuacct:/slurm\n5:memory:/slurm/job\n") == 2 * GB


def test_a_group_over_its_limit_has_nothing_left(tmp_path: Path) -> None:
    group(tmp_path, str(GB), 2 * GB, 0)

    assert left(tmp_path, "0::/\n") == 0


def test_a_machine_without_such_groups_has_its_own_memory(tmp_path: Path) -> None:
    assert available_memory(tmp_path / "absent", tmp_path) == 64 * GB
