"""WHERE to run: one site's partition, account, GPU request style, roots, modules and container."""

import re
from typing import Annotated, Literal
from urllib.parse import urlsplit

from pydantic import AfterValidator, Field, field_validator

from launcher.recipe.rules import Positive, Section, VariableName
from launcher.recipe.units import Duration, Size


def _refuse_blank(value: str) -> str:
    if not value or re.search(r"\s", value):
        raise ValueError(f"`{value}` is empty or has a blank in it; write one word")
    return value


def is_public_wandb(url: str) -> bool:
    """Tell whether a W&B server is run by W&B itself: its public cloud, or a part of it reserved for one customer."""
    host = (urlsplit(url).hostname or url).rstrip(".")
    return host.endswith((".wandb.ai", ".wandb.io")) or host in ("wandb.ai", "wandb.io")


def _refuse_foreign_server(url: str) -> str:
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.username or parts.query or parts.fragment:
        raise ValueError("is not the address of a server; write one such as `https://wandb.example.org`")
    if is_public_wandb(url):
        raise ValueError(f"`{parts.hostname}` is not the site's own server; leave the key out")
    return url


Word = Annotated[str, AfterValidator(_refuse_blank)]


class Roots(Section):
    """Folders of the site. `~` and `$VARIABLES` are expanded; they must be visible from all nodes."""

    runs: str
    """Run directories are made here."""
    data: str = "."
    """Source files of `prepare` recipes are found below this folder."""
    corpora: str
    """Prepared corpora."""
    models: str
    """Models and tokenizers; names not found here are taken as Hugging Face ids."""


class Gpus(Section):
    """How the site wants to be asked for GPUs, and what it has."""

    style: Literal["gres", "gpus-per-node"] = "gres"
    """`--gres=gpu:4` or `--gpus-per-node=4`."""
    type: Word | None = None
    """Type in the request: `gpu:a100:4`."""
    memory: Size | None = None
    """Memory of one GPU."""
    per_node: Positive | None = None
    """GPUs of one node; recipes that want more are refused."""
    device: Literal["cuda", "cpu"] = "cuda"
    """`cpu`: the site's GPUs are not there (a dev cluster's are links to /dev/null); train on CPUs."""


class SlurmOptions(Section):
    """What this site's Slurm wants to hear."""

    conf: str | None = None
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
    lead: Duration = Duration("5min")
    """How long before the time limit a run is asked to save and stop."""
    requeue: Literal["requeue", "resubmit", "never"] = "requeue"
    """How an interrupted run comes back: the same job again, a new job, or not at all."""
    port_range: tuple[Positive, Positive] = (10000, 32000)
    """First and last port for rendezvous; below the ephemeral range (32768 on Linux)."""

    @field_validator("port_range")
    @classmethod
    def _is_a_range(cls, ports: tuple[int, int]) -> tuple[int, int]:
        first, last = ports
        if not 1024 <= first < last <= 65535:
            raise ValueError(f"{first} to {last} is no range of ports; write two from 1024 to 65535, the smaller first")
        return ports


class Mail(Section):
    """Mail from Slurm."""

    address: str
    """Whom to write to."""
    events: Annotated[tuple[Literal["begin", "end", "fail", "requeue", "time_limit_80"], ...], Field(min_length=1)] = (
        "end",
        "fail",
    )
    """When."""


class Container(Section):
    """The image that tasks run in; the batch process stays on the host."""

    runtime: Literal["apptainer", "pyxis"]
    """`apptainer exec`, or srun's `--container-image` (pyxis)."""
    image: str
    """Image file or reference."""
    mounts: tuple[str, ...] = ()
    """Further folders to bind, besides the roots."""
    python: str = "python3"
    """Python inside the image."""


class Cluster(Section):
    """A cluster profile."""

    name: str
    """What people call the site."""
    executor: Literal["slurm", "local"] = "slurm"
    """`local`: processes on this machine, no Slurm."""
    slurm: SlurmOptions = SlurmOptions()
    """What Slurm wants to hear."""
    roots: Roots
    """The site's folders."""
    gpus: Gpus = Gpus()
    """GPU request style."""
    network_interface: str | None = None
    """For NCCL and gloo between nodes, e.g. `ib0`; their own choice if left out."""
    modules: tuple[str, ...] = ()
    """Loaded on the node before anything else."""
    environment: dict[VariableName, str] = Field(default_factory=dict)
    """Exported on the node. Never secrets: those go into `secrets_file`."""
    secrets_file: str | None = None
    """File of NAME=value lines, mode 0600, read by each task when it starts."""
    wandb_base_url: Annotated[str, AfterValidator(_refuse_foreign_server)] | None = None
    """The site's own W&B server, e.g. `https://wandb.example.org`. Credentialed runs are tracked online only there."""
    container: Container | None = None
    """Image that tasks run in."""
    mail: Mail | None = None
    """Mail from Slurm."""
    python: str | None = None
    """Python on the nodes; the one that runs `launcher` if left out."""
