"""WHERE to run: one site's partition, account, GPU request style, roots, modules and container."""

import re
from collections.abc import Iterator
from typing import Annotated, Literal
from urllib.parse import urlsplit

from pydantic import AfterValidator, Field, field_validator
from typing_extensions import override

from launcher.recipe.base import Positive, Section, VariableName
from launcher.recipe.kinds.recipe_base import EngineName
from launcher.recipe.quantities import Duration, Size
from launcher.run.wandb_server import is_public_wandb


def _refuse_blank(value: str) -> str:
    if not value or re.search(r"\s", value):
        raise ValueError(f"`{value}` is empty or contains white space; write one word")
    return value


def _refuse_no_path(value: str) -> str:
    if not value.strip():
        raise ValueError("is empty; write a path such as `/scratch/group/launcher`")
    return value


def _refuse_foreign_server(url: str) -> str:
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.username or parts.query or parts.fragment:
        raise ValueError("is not the address of a server; write one such as `https://wandb.example.org`")
    if is_public_wandb(url):
        raise ValueError(f"`{parts.hostname}` is W&B's public server, not one of the site; leave the key out")
    return url


Word = Annotated[str, AfterValidator(_refuse_blank)]
SitePath = Annotated[str, AfterValidator(_refuse_no_path)]

_OWN_OPTIONS = {
    "job-name": "`name` in the recipe",
    "nodes": "`resources.nodes` in the recipe",
    **dict.fromkeys(("ntasks", "ntasks-per-node", "ntasks-per-gpu"), "`resources.gpus_per_node` in the recipe"),
    **dict.fromkeys(("gpus", "gpus-per-node", "gpus-per-task", "gpus-per-socket"), "`gpus.style` and `gpus.type`"),
    "cpus-per-task": "`resources.cpus_per_task` in the recipe",
    "mem": "`resources.memory` in the recipe",
    "time": "`resources.time` in the recipe",
    **{name: f"`slurm.{name}`" for name in ("partition", "account", "qos", "reservation", "constraint", "exclude")},
    **dict.fromkeys(("requeue", "no-requeue"), "`slurm.requeue`"),
    "signal": "`slurm.lead`",
    "mail-user": "`mail.address`",
    "mail-type": "`mail.events`",
    **dict.fromkeys(("export", "export-file"), "`environment`"),
    "clusters": "`slurm.conf`",
    "array": "`launcher submit --max-parallel`",
    **dict.fromkeys(("dependency", "kill-on-invalid-dep"), "`launcher submit --after`"),
    **{name: f"`launcher submit --{name}`" for name in ("wait", "test-only")},
    **dict.fromkeys(("chdir", "open-mode", "output", "error", "comment", "wrap", "parsable", "help", "version"), ""),
}
"""Options of sbatch that a profile cannot set by their names, and what to write instead."""


def _refuse_own_option(name: str) -> str:
    if not re.fullmatch(r"[a-z][a-z0-9]*(-[a-z0-9]+)*", name) or len(name) == 1:
        raise ValueError(f"`{name}` is not the long name of an option of sbatch; write one such as `mem-per-cpu`")
    # sbatch also takes the beginning of a name.
    if own := next((own for own in _OWN_OPTIONS if own == name or own.startswith(name)), None):
        fix = f"write {_OWN_OPTIONS[own]} instead" if _OWN_OPTIONS[own] else "leave it out"
        raise ValueError(f"the launcher sets `--{own}` itself; {fix}")
    return name


def _refuse_no_value(value: bool | int | str) -> bool | int | str:
    if value is False or value == "":
        raise ValueError("is not a value; write `true` for an option without one, or leave the key out")
    return value


OptionName = Annotated[str, AfterValidator(_refuse_own_option)]
OptionValue = Annotated[bool | int | str, AfterValidator(_refuse_no_value)]


class Roots(Section):
    """Folders of the site. `~` and `$VARIABLES` are expanded; they must be visible from all nodes."""

    runs: SitePath
    """Run directories are made here."""
    data: SitePath = "."
    """Source files of `prepare` recipes are found below this folder."""
    corpora: SitePath
    """Prepared corpora."""
    models: SitePath
    """Models and tokenizers; names not found here are taken as Hugging Face ids."""


class Gpus(Section):
    """How to request GPUs, and what the site has."""

    style: Literal["gres", "gpus-per-node"] = "gres"
    """`--gres=gpu:4` or `--gpus-per-node=4`."""
    type: Word | None = None
    """Type in the request: `gpu:a100:4`."""
    memory: Size | None = None
    """Memory of one GPU."""
    per_node: Positive | None = None
    """GPUs of one node; recipes that ask for more are refused."""
    network: Size | None = None
    """Bytes that a node sends to other nodes in a second, e.g. `25GB`; `launcher plan` says what that is enough for."""
    price: Annotated[float, Field(ge=0)] | None = None
    """Price of a GPU-hour, in whatever currency; `launcher plan` multiplies it."""
    device: Literal["cuda", "cpu"] = "cuda"
    """`cpu`: train on CPUs; the site's GPUs do not exist (those of a dev cluster are links to /dev/null)."""


class SlurmOptions(Section):
    """Options for this site's Slurm."""

    conf: SitePath | None = None
    """slurm.conf, where it is not in its usual place (a dev cluster)."""
    partition: Word | None = None
    """Partition."""
    account: Word | None = None
    """Account to charge."""
    qos: Word | None = None
    """Quality of service."""
    reservation: Word | None = None
    """Reservation."""
    constraint: Word | None = None
    """Node features, e.g. `a100&nvlink`."""
    exclude: Word | None = None
    """Nodes to avoid, e.g. `gpu[03,07]`."""
    remember: Duration | None = Duration("7d")
    """How long nodes that failed the preflight check, hung or were slow are remembered and not asked for
    (`launcher nodes list`). `null`: nothing is remembered."""
    lead: Duration = Duration("5min")
    """How long before the time limit a run is asked to save and stop."""
    requeue: Literal["requeue", "resubmit", "never"] = "requeue"
    """How an interrupted run comes back: the same job again, a new job, or not at all."""
    guardian: bool = False
    """Queue a small job beside each run, without GPUs, that brings the run back if its batch process is killed: its
    host ran out of memory, or an administrator did it. It counts as a queued job of yours."""
    options: dict[OptionName, OptionValue] = Field(default_factory=dict)
    """Any other option of sbatch: `{licenses: "matlab:1", exclusive: true}`; `true`: one without a value.
    `mem-per-cpu` and `mem-per-gpu` are for recipes without `resources.memory`."""
    port_range: tuple[Positive, Positive] = (10000, 32000)
    """First and last port for rendezvous; below the ephemeral range (32768 on Linux)."""

    @field_validator("port_range")
    @classmethod
    def _is_a_range(cls, ports: tuple[int, int]) -> tuple[int, int]:
        first, last = ports
        if not 1024 <= first < last <= 65535:
            raise ValueError(
                f"{first} to {last} is not a range of ports; write two from 1024 to 65535, the smaller first"
            )
        return ports

    @override
    def _conflicts(self) -> Iterator[str]:
        if re.search(r"\bgpu\b", str(self.options.get("gres", ""))):
            yield "options.gres: the launcher asks for GPUs itself; write `gpus.type` and the recipe's `gpus_per_node`"


class Mail(Section):
    """Mail from Slurm."""

    address: str
    """Recipient."""
    events: Annotated[tuple[Literal["begin", "end", "fail", "requeue", "time_limit_80"], ...], Field(min_length=1)] = (
        "end",
        "fail",
    )
    """Events to report."""


class Notify(Section):
    """Whom the batch process tells how a run is doing. What fails here never harms a run."""

    webhook: VariableName | None = None
    """Name of the variable that holds an address, in the environment you submit from or in `secrets_file`. It gets JSON
    as Slack, Mattermost and others read it: `{"text": "..."}`."""
    command: tuple[str, ...] = ()
    """A program of the nodes and its arguments. It finds LAUNCHER_EVENT, LAUNCHER_RUN and LAUNCHER_TEXT in its
    environment."""
    events: Annotated[
        tuple[Literal["started", "requeued", "stopped", "finished", "failed"], ...], Field(min_length=1)
    ] = ("requeued", "stopped", "finished", "failed")
    """What to tell: an attempt has started; a run was interrupted and is queued again; it was stopped by a person, or
    may not be queued again; it has finished; it has failed for good."""

    @override
    def _conflicts(self) -> Iterator[str]:
        if self.webhook is None and not self.command:
            yield "webhook, command: nobody is told; write one of them, or leave `notify` out"


class Container(Section):
    """The image that ranks run in; the batch process runs on the host."""

    runtime: Literal["apptainer", "pyxis"]
    """`apptainer exec`, or srun's `--container-image` (pyxis)."""
    image: SitePath
    """Image file, with `~` and `$VARIABLES` expanded, or a reference such as `docker://name` or `nvcr.io#name`."""
    mounts: tuple[str, ...] = ()
    """Further folders to bind, besides the roots."""
    python: SitePath = "python3"
    """Python inside the image."""


class Cluster(Section):
    """A cluster profile."""

    name: str
    """Name of the site."""
    executor: Literal["slurm", "local"] = "slurm"
    """`local`: processes on this machine, no Slurm."""
    slurm: SlurmOptions = SlurmOptions()
    """Options for Slurm."""
    roots: Roots
    """The site's folders."""
    gpus: Gpus = Gpus()
    """GPUs, and how to request them."""
    network_interface: str | None = None
    """Network of NCCL and gloo between nodes, e.g. `ib0`; chosen by them if left out."""
    modules: tuple[str, ...] = ()
    """Environment modules to load on the node first."""
    environment: dict[VariableName, str] = Field(default_factory=dict)
    """Exported on the node. Never secrets: those go into `secrets_file`."""
    secrets_file: SitePath | None = None
    """File of NAME=value lines, mode 0600, read by each rank when it starts."""
    wandb_base_url: Annotated[str, AfterValidator(_refuse_foreign_server)] | None = None
    """The site's own W&B server, e.g. `https://wandb.example.org`. Credentialed runs are tracked online only there."""
    container: Container | None = None
    """Image that ranks run in."""
    mail: Mail | None = None
    """Mail from Slurm."""
    notify: Notify | None = None
    """Messages from the batch process, to a chat or a program."""
    python: SitePath | None = None
    """Python on the nodes; the one that runs `launcher` if left out."""
    engines: dict[EngineName, SitePath] = Field(default_factory=dict)
    """Pythons of engines that need other versions of torch than the launcher, on a file system that this machine and
    the nodes share, or in the image: `{vllm: /envs/vllm/bin/python}`."""
