"""What Slurm says of a site, in the words of 22.05.8 with invented partitions and nodes, as a cluster profile."""

import os
from pathlib import Path

import pytest

from launcher.load import load_cluster
from launcher.run.slurm_text import parse_gres
from launcher.site.new_profile import local_profile, site_profile
from launcher.site.partitions import GpuNodes, Site, ask_site, parse_gpu_nodes, parse_partitions, parse_site
from tests.support.recipe_files import write

CONFIG = """\
Configuration data as of 2026-11-21T04:41:25
AccountingStorageType   = accounting_storage/slurmdbd
BOOT_TIME               = 2026-11-21T04:41:21
ClusterName             = dev
JobRequeue              = 1
KillWait                = 5 sec
MaxArraySize            = 1001
PreemptMode             = REQUEUE
SLURM_CONF              = /etc/slurm/slurm.conf
SLURM_VERSION           = 22.05.8
TaskPlugin              = task/none

Slurmctld(primary) at head is UP
"""
PARTITIONS = """\
PartitionName=preempt AllowGroups=ALL AllowAccounts=ALL AllowQos=ALL AllocNodes=ALL Default=YES QoS=N/A \
DefaultTime=NONE DisableRootJobs=NO ExclusiveUser=NO GraceTime=10 Hidden=NO MaxNodes=UNLIMITED MaxTime=UNLIMITED \
MinNodes=0 LLN=NO MaxCPUsPerNode=UNLIMITED Nodes=a100-[01-02] PriorityJobFactor=1 PriorityTier=1 RootOnly=NO \
ReqResv=NO OverSubscribe=NO OverTimeLimit=NONE PreemptMode=REQUEUE State=UP TotalCPUs=32 TotalNodes=2 \
SelectTypeParameters=NONE JobDefaults=(null) DefMemPerNode=UNLIMITED MaxMemPerNode=UNLIMITED \
TRES=cpu=32,mem=32000M,node=2,billing=32,gres/gpu=8
PartitionName=high AllowGroups=ALL Default=NO GraceTime=0 MaxTime=1-00:00:00 PreemptMode=OFF State=UP TotalNodes=2
PartitionName=old AllowGroups=ALL Default=NO GraceTime=0 MaxTime=UNLIMITED PreemptMode=OFF State=INACTIVE TotalNodes=9
"""
NODES = """\
preempt|gpu:a100:4|2
high|gpu:a100:4|2
"""


@pytest.fixture
def site() -> Site:
    return parse_site(CONFIG, PARTITIONS, NODES, account="biomed")


def test_a_site_is_read_from_what_slurm_prints(site: Site) -> None:
    assert (site.name, site.version, site.max_array_size, site.kill_wait_seconds) == ("dev", "22.05.8", 1001, 5)
    assert (site.job_requeue, site.has_accounting) == (True, True)
    assert [(p.name, p.is_default, p.preempt_mode, p.grace_seconds) for p in site.partitions] == [
        ("preempt", True, "REQUEUE", 10),
        ("high", False, "OFF", 0),
    ]
    assert site.gpus_of("high") == [GpuNodes("high", "a100", 4, 2)]


def test_partitions_that_a_site_hides_are_known_but_not_proposed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Slurm's commands name them only with `--all`."""
    hidden = "PartitionName=course Default=NO Hidden=YES MaxTime=UNLIMITED PreemptMode=OFF State=UP TotalNodes=9"
    answers = {
        "scontrol": f"case \"$*\" in *config) cat <<'E'\n{CONFIG}E\n;; *) cat <<'E'\n{PARTITIONS}E\n;; esac\n"
        f"case \"$*\" in *partition*--all*) echo '{hidden}' ;; esac",
        "sinfo": f"cat <<'E'\n{NODES}E\ncase \"$*\" in *--all*) echo 'course|gpu:a100:8|9' ;; esac",
        "sacctmgr": "echo biomed",
    }
    for name, body in answers.items():
        write(tmp_path, f"#!/bin/sh\n{body}\n", f"bin/{name}").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}/bin:{os.environ['PATH']}")

    site = ask_site()

    assert [partition.name for partition in site.partitions] == ["preempt", "high", "course"]
    assert site.gpus_of("course") == [GpuNodes("course", "a100", 8, 9)]
    assert site.best_partition is not None and site.best_partition.name == "preempt"
    assert "course" not in site_profile(site, "dev", "/scratch")


@pytest.mark.parametrize(
    ("gres", "gpus"),
    [
        ("(null)", []),
        ("gpu:a100:4", [("a100", 4)]),
        ("gpu:8", [(None, 8)]),
        ("gpu:a100:4(S:0-1)", [("a100", 4)]),
        ("gpu:a100:2(S:0),gpu:v100:2(S:1),nvme:1", [("a100", 2), ("v100", 2)]),
        ("gpu:a100_3g.20gb:2(IDX:0-1)", [("a100_3g.20gb", 2)]),
        ("gpu", [(None, 1)]),
        ("gpu:tesla", [("tesla", 1)]),
        ("craynetwork:4,fpgpu:2", []),
    ],
)
def test_gpus_are_found_in_gres(gres: str, gpus: list[tuple[str | None, int]]) -> None:
    assert list(parse_gres(gres)) == gpus


def test_nodes_without_gpus_are_left_out() -> None:
    assert parse_gpu_nodes("cpu|(null)|100\ngpu|gpu:h100:8(S:0-1)|12\n") == (GpuNodes("gpu", "h100", 8, 12),)


@pytest.mark.parametrize(
    ("nodes", "best"),
    [
        (NODES, "preempt"),
        ("preempt|(null)|90\nhigh|gpu:a100:4|2\n", "high"),
        ("preempt|(null)|90\nhigh|(null)|2\n", "preempt"),
        ("", "preempt"),
    ],
)
def test_the_default_partition_is_chosen_unless_it_has_no_gpus(nodes: str, best: str) -> None:
    partition = parse_site(CONFIG, PARTITIONS, nodes).best_partition

    assert partition is not None
    assert partition.name == best


def test_a_partition_without_its_own_preempt_mode_has_the_sites() -> None:
    (partition,) = parse_partitions("PartitionName=x Default=YES State=UP\n", "CANCEL")

    assert partition.preempt_mode == "CANCEL"


def test_a_sites_profile_loads_and_holds_what_slurm_said(site: Site, tmp_path: Path) -> None:
    text = site_profile(site, site.name, "/scratch/me")

    cluster = load_cluster(str(write(tmp_path, text, "cluster.yaml")))

    assert (cluster.name, cluster.slurm.partition, cluster.slurm.account) == ("dev", "preempt", "biomed")
    assert (cluster.gpus.style, cluster.gpus.type, cluster.gpus.per_node) == ("gres", "a100", 4)
    assert cluster.roots.runs == "/scratch/me/runs"
    assert "# preempted jobs are put back into the queue here, 10 s after they were asked to stop" in text
    assert "# arrays have at most 1001 elements here" in text


def test_every_commented_key_of_a_profile_is_a_real_one(site: Site, tmp_path: Path) -> None:
    secrets = write(tmp_path, "", "secrets")
    secrets.chmod(0o600)
    lines = [
        line.replace("# ", "", 1) if line.lstrip().startswith("# ") and ": " in line.partition("# ")[2] else line
        for line in site_profile(site, site.name, "/scratch/me").splitlines()[2:]
    ]
    text = "\n".join(line for line in lines if "arrays have" not in line and "preempted jobs" not in line)

    wanted = {"environment:", "container:", "mail:", "notify:"}
    text = text.replace("~/.config/launcher/secrets", str(secrets))
    for key in wanted:
        text = text.replace(f"# {key}", key)
    cluster = load_cluster(str(write(tmp_path, text, "cluster.yaml")))

    assert cluster.container is not None
    assert cluster.mail is not None
    assert cluster.notify is not None and cluster.notify.webhook == "SLACK_WEBHOOK"
    assert cluster.environment == {"HF_HUB_OFFLINE": "1"}
    assert (cluster.slurm.qos, cluster.modules, cluster.gpus.memory) == ("normal", ("cuda/12.8",), "80GB")


def test_odd_names_stay_text(tmp_path: Path) -> None:
    partitions = "PartitionName=1e5 Default=YES State=UP\n"
    site = parse_site(CONFIG.replace("= dev", "= 007"), partitions, "1e5|gpu:null:2|1\n", account="no: yes #1")

    text = site_profile(site, site.name, "~/my files")
    loose = text.replace('account: "no: yes #1"', "account: a")
    cluster = load_cluster(str(write(tmp_path, loose, "cluster.yaml")))

    assert 'account: "no: yes #1"' in text
    assert (cluster.name, cluster.slurm.partition, cluster.gpus.type) == ("007", "1e5", "null")
    assert cluster.roots.runs == "~/my files/runs"


@pytest.mark.parametrize(("gpus", "device"), [(0, "cpu"), (2, "cuda")])
def test_a_machine_without_slurm_gets_a_local_profile(tmp_path: Path, gpus: int, device: str) -> None:
    cluster = load_cluster(str(write(tmp_path, local_profile("local", "~/launcher", gpus), "cluster.yaml")))

    assert (cluster.executor, cluster.gpus.device, cluster.gpus.per_node) == ("local", device, gpus or None)
