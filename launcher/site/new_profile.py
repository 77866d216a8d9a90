"""A first cluster profile, with comments, from what Slurm says of a site. Pure."""

import json
import re

from launcher.site.partitions import Partition, Site


def site_profile(site: Site, name: str, scratch: str) -> str:
    """Write the YAML of a site's profile.

    Args:
        site: What Slurm said.
        name: Name of the profile.
        scratch: Folder for runs, corpora and models.
    """
    partition = site.best_partition
    lines = [
        f"# Cluster profile, written by `launcher init` from what Slurm {site.version} says of `{site.name}`.",
        "# Check it, above all the folders under `roots`; then: launcher validate RECIPE --cluster THIS_FILE",
        f"name: {_scalar(name)}",
        "",
        *_slurm_lines(site, partition),
        "",
        *roots_lines(scratch),
        "",
        *_gpu_lines(site, partition),
        "",
        *OPTIONAL_LINES,
    ]
    return "\n".join(lines) + "\n"


def local_profile(name: str, scratch: str, gpus: int) -> str:
    """Write the YAML of a profile for this machine, without Slurm."""
    device = ["  device: cuda", f"  per_node: {gpus}"] if gpus else ["  device: cpu"]
    lines = [
        "# Cluster profile of this machine, written by `launcher init`: without Slurm, runs are processes here.",
        f"name: {_scalar(name)}",
        "executor: local",
        "",
        *roots_lines(scratch),
        "",
        "gpus:",
        *device,
        "",
        *OPTIONAL_LINES,
    ]
    return "\n".join(lines) + "\n"


def roots_lines(scratch: str) -> list[str]:
    """Write the folders below one folder."""
    folders = [f"  {name}: {_scalar(f'{scratch}/{name}')}" for name in ("runs", "data", "corpora", "models")]
    return ["roots:                           # `~` and $VARIABLES are expanded; all nodes must see them", *folders]


OPTIONAL_LINES = [
    "# network_interface: ib0          # for NCCL and gloo between nodes, if they choose the wrong one",
    "# modules: [cuda/12.8]            # loaded on the node before anything else",
    "# environment:",
    '#   HF_HUB_OFFLINE: "1"           # nodes without internet: fail at once instead of waiting',
    "# secrets_file: ~/.config/launcher/secrets    # NAME=value lines, mode 0600",
    "# container:",
    "#   runtime: apptainer            # or pyxis",
    "#   image: /path/to/image.sif",
    "# mail:",
    "#   address: you@example.org",
    "# notify:",
    "#   webhook: SLACK_WEBHOOK        # name of the variable with the address, here or in `secrets_file`",
]


def _slurm_lines(site: Site, partition: Partition | None) -> list[str]:
    lines = ["slurm:"]
    if partition:
        others = [other.name for other in site.shown_partitions if other != partition]
        lines.append(_entry("partition", _scalar(partition.name), f"others: {', '.join(others)}" if others else ""))
    if site.account:
        lines.append(_entry("account", _scalar(site.account), "your default account"))
    else:
        lines.append("  # account: my-project          # if the site charges accounts")
    lines += [
        "  # qos: normal",
        "  # constraint: nvlink",
        "  # exclude: node[03,07]",
        _entry("lead", "5min", "how long before the time limit a run saves and stops"),
        *_preemption_lines(partition),
        _entry("requeue", "requeue", _requeue_comment(site)),
        f"  # arrays have at most {site.max_array_size} elements here; larger submissions are split",
    ]
    if not site.has_accounting:
        lines.append("  # no accounting here (sacct): `launcher status` asks squeue and the run directories instead")
    return lines


def _preemption_lines(partition: Partition | None) -> list[str]:
    if partition is None or partition.preempt_mode == "OFF":
        return []
    what = {"REQUEUE": "put back into the queue", "CANCEL": "cancelled"}.get(partition.preempt_mode, "stopped")
    return [f"  # preempted jobs are {what} here, {partition.grace_seconds} s after they were asked to stop"]


def _requeue_comment(site: Site) -> str:
    default = "" if site.job_requeue else "; the site's JobRequeue=0 does not forbid it"
    return f"`resubmit` where `scontrol requeue` is forbidden{default}"


def _gpu_lines(site: Site, partition: Partition | None) -> list[str]:
    kinds = site.gpus_of(partition.name) if partition else []
    if not kinds:
        return ["# No GPUs were found in this partition.", "gpus:", "  device: cpu"]
    first, *others = kinds
    lines = ["gpus:", _entry("style", "gres", "--gres=gpu:...; or `gpus-per-node`")]
    if first.type:
        more = f"also here: {', '.join(str(other) for other in others)}" if others else str(first)
        lines.append(_entry("type", _scalar(first.type), more))
    lines.append(f"  per_node: {first.per_node}")
    lines.append("  # memory: 80GB                 # of one GPU; Slurm does not know it")
    return lines


def _entry(key: str, value: str, comment: str) -> str:
    line = f"  {key}: {value}"
    return f"{line:<32} # {comment}" if comment else line


def _scalar(text: str) -> str:
    """Quote what YAML could read as something else."""
    is_plain = re.fullmatch(r"[A-Za-z~$][A-Za-z0-9_./~${}-]*", text) and text.lower() not in ("null", "true", "false")
    return text if is_plain else json.dumps(text)
