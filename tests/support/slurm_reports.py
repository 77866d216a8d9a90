"""What Slurm says of a site, captured and edited, and profiles of such a site."""

import re
from pathlib import Path
from typing import Any

from launcher.cluster import Cluster
from launcher.site.limits import SlurmReport, parse_associations, parse_features, parse_qos
from launcher.site.partitions import parse_site
from tests.support.recipe_files import profile

# Slurm 22.05.8 of a dev cluster with accounting: captured, lines that matter here.
CONFIG = """\
Configuration data as of 2026-11-21T06:54:29
AccountingStorageType   = accounting_storage/slurmdbd
AuthInfo                = socket=/run/munge/socket,cred_expire=5
ClusterName             = dev
JobRequeue              = 1
JobSubmitPlugins        = (null)
KillWait                = 5 sec
MaxArraySize            = 1001
MaxJobCount             = 20000
MinJobAge               = 300 sec
PreemptMode             = REQUEUE
PreemptType             = preempt/partition_prio
PreemptExemptTime       = 00:00:00
ProctrackType           = proctrack/linuxproc
RequeueExit             = (null)
RequeueExitHold         = (null)
SelectType              = select/cons_tres
SlurmctldParameters     = (null)
SLURM_VERSION           = 22.05.8
TaskPlugin              = task/none

Slurmctld(primary) at head is UP
"""
PARTITIONS = """\
PartitionName=preempt AllowGroups=ALL AllowAccounts=ALL AllowQos=ALL AllocNodes=ALL Default=YES QoS=N/A \
DefaultTime=NONE GraceTime=10 Hidden=NO MaxNodes=UNLIMITED MaxTime=UNLIMITED MinNodes=0 Nodes=a100-[01-02] \
PriorityJobFactor=1 PriorityTier=1 PreemptMode=REQUEUE State=UP TotalCPUs=32 TotalNodes=2 \
TRES=cpu=32,mem=32000M,node=2,billing=32,gres/gpu=8
PartitionName=high AllowGroups=ALL AllowAccounts=ALL AllowQos=ALL AllocNodes=ALL Default=NO QoS=N/A \
DefaultTime=NONE GraceTime=0 Hidden=NO MaxNodes=UNLIMITED MaxTime=UNLIMITED MinNodes=0 Nodes=a100-[01-02] \
PriorityJobFactor=1 PriorityTier=10 PreemptMode=OFF State=UP TotalCPUs=32 TotalNodes=2 \
TRES=cpu=32,mem=32000M,node=2,billing=32,gres/gpu=8
"""
NODES = "preempt|gpu:a100:4|2\nhigh|gpu:a100:4|2\n"
FEATURES = "preempt|(null)|127.0.0.1\nhigh|(null)|127.0.0.1\n"
QOS = "normal|00:00:00|cluster||\n"
ASSOCIATIONS = "root||normal||\n"

# How Slurm 25.11.4 words the same lines: plugins that are off are `(null)`, and keys are there that 22.05 lacks.
CONFIG_25_11 = """\
AccountingStorageType   = accounting_storage/slurmdbd
AuthInfo                = (null)
ClusterName             = linux
JobRequeue              = 1
JobSubmitPlugins        = lua
KillWait                = 30 sec
MaxArraySize            = 1001
MaxBatchRequeue         = 5
MaxJobCount             = 10000
MinJobAge               = 300 sec
PreemptMode             = OFF
PreemptParameters       = (null)
PreemptType             = (null)
PreemptExemptTime       = 00:00:00
ProctrackType           = proctrack/linuxproc
RequeueExitHold         = (null)
SelectType              = select/cons_tres
SLURM_VERSION           = 25.11.4
TaskPlugin              = task/affinity
"""


def edited(text: str, **values: str) -> str:
    """A capture with some values replaced: made up, not captured. Keys of partitions are changed in the first one."""
    for key, value in values.items():
        text, found = re.subn(
            rf"^(.*?\b{key}\s*=\s?)\S.*?(?= \w+=|$)", rf"\g<1>{value}", text, count=1, flags=re.M | re.S
        )
        assert found, key
    return text


def facts(config: str = CONFIG, partitions: str = PARTITIONS, nodes: str = NODES, **others: Any) -> SlurmReport:
    """What the dev cluster said, or an edited version of it."""
    given = {"qos": parse_qos(QOS), "associations": parse_associations(ASSOCIATIONS)}
    given |= {"features": parse_features(FEATURES), **others}
    return SlurmReport(parse_site(config, partitions, nodes, "root"), **given)


def site(tmp_path: Path, slurm: str = "{partition: preempt}", gpus: str = "{type: a100, per_node: 4}") -> Cluster:
    text = f"name: dev\nroots: {{runs: ./r, corpora: ./c, models: ./m}}\nslurm: {slurm}\ngpus: {gpus}\n"
    return profile(tmp_path, text)
