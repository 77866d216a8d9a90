"""torch.distributed for one attempt: the group that trains, and a small one for agreement between ranks.

Agreement uses CPU tensors over gloo, so it neither waits for the GPU's queue nor mixes with NCCL's collectives.
"""

import os
import socket
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Any, TypeVar

import psutil
import torch
import torch.distributed as dist
from torch.distributed import HashStore  # type: ignore[attr-defined]

from jobs.rank.context import Context
from jobs.rank.flight_recorder import keep_collectives
from jobs.rank.ranks import Ranks
from jobs.rank.stop_flag import STOP, StopRequested
from jobs.rank.transfer import ending_together
from jobs.rank.watchdog import WATCHDOG
from launcher.errors import LauncherError
from launcher.run.collectives import collectives_file

T = TypeVar("T")

UNLIMITED = timedelta(days=7)
"""How long collectives wait where no hang is looked for: a person may be at a breakpoint."""


_kept: list[Any] = []
"""The groups that train, until this process ends. If DistributedDataParallel held the last reference to one, freeing it
would wait for gloo's threads while it holds the interpreter's lock, and they may want that lock to free the tensors of
their last message: a rank that was done with everything hung (https://github.com/pytorch/pytorch/issues/56297)."""


@dataclass(frozen=True)
class RankGroup:
    """All ranks of the attempt. Every method is a collective: all ranks call it, in the same order.

    Each is a heartbeat as well: all ranks have come this far. Another thread needs another group, or messages mix.
    """

    rank: int
    world_size: int
    leads_node: bool
    """Whether this rank does what is done once on every node."""
    device: torch.device
    control: Any
    """The gloo group of the agreement messages."""
    progress: Callable[[], None] | None = None
    """Called instead of a heartbeat, by a group of another thread."""

    @property
    def is_main(self) -> bool:
        """Whether this is rank 0."""
        return self.rank == 0

    def any(self, *claims: bool) -> tuple[bool, ...]:
        """Tell for each claim whether some rank makes it; one message for all of them."""
        if self.world_size > 1:
            flags = torch.tensor(claims, dtype=torch.uint8)
            dist.all_reduce(flags, op=dist.ReduceOp.MAX, group=self.control)
            claims = tuple(bool(flag) for flag in flags.tolist())
        self._advance()
        return claims

    def any_and_all(self, claims: Sequence[bool], own: Sequence[float]) -> tuple[list[bool], list[list[float]]]:
        """Tell for each claim whether some rank makes it, and every rank's numbers, in one message.

        Args:
            claims: Of this rank.
            own: Numbers of this rank that are not negative; each rank gives as many.
        """
        count, ranks = len(claims), range(self.world_size)
        numbers = torch.zeros(count + len(own) * self.world_size)
        numbers[:count] = torch.tensor(claims, dtype=torch.float32)
        first = count + self.rank * len(own)
        numbers[first : first + len(own)] = torch.tensor(own, dtype=torch.float32)
        if self.world_size > 1:
            dist.all_reduce(numbers, op=dist.ReduceOp.MAX, group=self.control)
        self._advance()
        told = numbers.tolist()
        starts = [count + rank * len(own) for rank in ranks]
        return [flag > 0 for flag in told[:count]], [told[start : start + len(own)] for start in starts]

    def from_main(self, value: T) -> T:
        """Return rank 0's value on every rank."""
        box: list[T] = [value]
        if self.world_size > 1:
            dist.broadcast_object_list(box, src=0, group=self.control)
        self._advance()
        return box[0]

    def collect(self, value: T) -> list[T]:
        """Return the values of all ranks, in the order of ranks, on every rank."""
        boxes: list[Any] = [value] * self.world_size
        if self.world_size > 1:
            dist.all_gather_object(boxes, value, group=self.control)
        self._advance()
        return boxes

    def barrier(self) -> None:
        """Wait until every rank is here."""
        if self.world_size > 1:
            dist.barrier(group=self.control)
        self._advance()

    def for_another_thread(self, progress: Callable[[], None]) -> "RankGroup":
        """Make a group of the same ranks for another thread, whose messages are no heartbeats. A collective.

        Args:
            progress: Called after each of its messages.
        """
        control = None if self.control is None else dist.new_group(backend="gloo", timeout=_timeout())
        return replace(self, control=control, progress=progress)

    def _advance(self) -> None:
        (self.progress or WATCHDOG.heartbeat)()


def wait_for_main(group: RankGroup, work: Callable[[], Iterator[None]], finishes: bool = False) -> None:
    """Let rank 0 do something for all while the others wait, however long it takes. A collective.

    Args:
        group: All ranks.
        work: Called on rank 0; at each step of its iterator the others can be told to go on waiting. A generator is
            closed where a stop leaves it.
        finishes: Whether it is done to its end though a stop is asked for, since it publishes what is finished.

    Raises:
        LauncherError: rank 0 raised it; every rank does.
        StopRequested: some rank was asked to stop before it was done; every rank raises it.
    """
    steps = work() if group.is_main else iter(())
    try:
        while (said := group.from_main(_go_on(steps) if group.is_main else "")) != _DONE:
            if said != _UNDER_WAY:
                raise LauncherError(said)
            if not finishes and group.any(STOP.is_requested())[0]:
                raise StopRequested
    finally:
        if isinstance(steps, Generator):
            steps.close()


_DONE, _UNDER_WAY = "done", "under way"
_REPORT_SECONDS = 10


def _go_on(steps: Iterator[None]) -> str:
    """Work for a while; return what to tell the others."""
    until = time.monotonic() + _REPORT_SECONDS
    try:
        for _ in steps:
            if time.monotonic() > until:
                return _UNDER_WAY
    except LauncherError as error:
        return str(error)
    return _DONE


@contextmanager
def process_group(context: Context) -> Iterator[RankGroup]:
    """Join the process group for the length of a `with` block.

    After an exception the group is not destroyed: that would wait for ranks that hang, and when this process ends, srun
    ends the others (`--kill-on-bad-exit`).
    """
    ranks = context.ranks
    _export(ranks)
    device = _device(context)
    _choose_gloo_interface()
    _init(ranks, device)
    _kept.append(dist.group.WORLD)
    control = dist.new_group(backend="gloo", timeout=_timeout())
    kept = collectives_file(context.run.collectives(context.attempt), ranks.rank)
    WATCHDOG.on_hang(lambda: keep_collectives(kept))
    WATCHDOG.heartbeat()
    group = RankGroup(ranks.rank, ranks.world_size, ranks.local_rank == 0, device, control)
    try:
        # Of these agreements only those count as progress that tell of bytes.
        with ending_together(replace(group, progress=_no_progress).any):
            yield group
    except StopRequested:  # all ranks agreed on it
        dist.destroy_process_group()
        raise
    dist.destroy_process_group()


def _no_progress() -> None:
    pass


def _export(ranks: Ranks) -> None:
    # accelerate and DeepSpeed read torchrun's names, whoever started the task.
    os.environ.update(
        RANK=str(ranks.rank),
        WORLD_SIZE=str(ranks.world_size),
        LOCAL_RANK=str(ranks.local_rank),
        LOCAL_WORLD_SIZE=str(ranks.local_world_size),
    )


def _device(context: Context) -> torch.device:
    if not context.recipe.resources.gpus_per_node or context.record.cluster["gpus"]["device"] == "cpu":
        return torch.device("cpu")
    if not torch.cuda.is_available():
        raise RuntimeError(f"node {socket.gethostname()} has no GPU that torch can see, but the recipe needs GPUs")
    torch.cuda.set_device(context.ranks.local_rank)
    return torch.device("cuda", context.ranks.local_rank)


def _init(ranks: Ranks, device: torch.device) -> None:
    on_gpu = device.type == "cuda"
    rendezvous: dict[str, Any] = {"store": HashStore()} if ranks.world_size == 1 else {"init_method": "env://"}
    dist.init_process_group(
        "cpu:gloo,cuda:nccl" if on_gpu else "gloo",
        rank=ranks.rank,
        world_size=ranks.world_size,
        timeout=_timeout(),
        device_id=device if on_gpu else None,
        **rendezvous,
    )


def _timeout() -> timedelta:
    """How long a collective waits: as long as a process may go without a heartbeat."""
    return min(timedelta(seconds=WATCHDOG.limit), UNLIMITED) if WATCHDOG.limit else UNLIMITED


def _choose_gloo_interface() -> None:
    """Make gloo listen on the interface that leads to the first node, unless the site chose one.

    By default gloo listens on the address that the host's own name resolves to: on Debian often 127.0.1.1, which other
    nodes cannot reach.
    """
    master = os.environ.get("MASTER_ADDR")
    if master is None or "GLOO_SOCKET_IFNAME" in os.environ:
        return
    interface = interface_towards(master)
    if interface is not None:
        os.environ["GLOO_SOCKET_IFNAME"] = interface


def interface_towards(host: str) -> str | None:
    """Find the network interface from which a host is reached; None if there is no way to it."""
    try:
        family, kind, _, _, address = socket.getaddrinfo(host, 9, type=socket.SOCK_DGRAM)[0]
        with socket.socket(family, kind) as probe:
            probe.connect(address)  # a datagram socket: chooses the route, sends nothing
            own = probe.getsockname()[0]
    except OSError:
        return None
    interfaces: dict[str, Any] = psutil.net_if_addrs()
    for name, addresses in interfaces.items():
        if any(entry.address.split("%")[0] == own for entry in addresses):
            return name
    return None
