"""Where the tasks of an attempt meet: ranks, an address, a port nobody else uses. Standard library only."""

import errno
import ipaddress
import re
import socket
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

PORTS = 2
"""Ports of one attempt: torch.distributed's store, and the preflight's beside it."""

JOBS_ALIVE = 1000
"""Job ids that lie closer together than this never want the same port, as far as the port range allows."""


class UnresolvableError(Exception):
    """No way to the first node was found."""


class Place(NamedTuple):
    """A task's place, in the words of torch.distributed; see `jobs.runtime.context.Ranks`."""

    rank: int
    world_size: int
    local_rank: int
    local_world_size: int
    node_rank: int


def ranks_from(environ: Mapping[str, str]) -> Place:
    """Read this task's place from what srun, our local executor or torchrun exported.

    RANK wins over SLURM_PROCID: where both are there, somebody started torchrun inside a Slurm task.
    A task that nobody placed is alone.
    """
    if "RANK" in environ:
        world = int(environ["WORLD_SIZE"])
        local_world = int(environ.get("LOCAL_WORLD_SIZE", world))
        rank = int(environ["RANK"])
        node = int(environ.get("NODE_RANK", environ.get("GROUP_RANK", rank // local_world)))
        return Place(rank, world, int(environ["LOCAL_RANK"]), local_world, node)
    if "SLURM_PROCID" in environ and "SLURM_STEP_ID" in environ:
        node = int(environ["SLURM_NODEID"])
        per_node = tasks_per_node(environ["SLURM_STEP_TASKS_PER_NODE"])
        rank, world = int(environ["SLURM_PROCID"]), int(environ["SLURM_NTASKS"])
        return Place(rank, world, int(environ["SLURM_LOCALID"]), per_node[node], node)
    return Place(0, 1, 0, 1, 0)


def tasks_per_node(text: str) -> list[int]:
    """Expand Slurm's `4(x3),2`."""
    counts: list[int] = []
    for count, times in re.findall(r"(\d+)(?:\(x(\d+)\))?", text):
        counts += [int(count)] * int(times or 1)
    return counts


def master_address(nodes: Sequence[str], node_addr: Callable[[str], str | None]) -> tuple[str, str]:
    """Find an address at which all nodes reach the first one.

    Its name, if that leads anywhere but to the asking machine itself; else its NodeAddr, which a site
    sets where names do not resolve. Never a silent localhost: tasks of other nodes would wait there for ever.

    Args:
        nodes: The nodes of the job; this runs on the first one.
        node_addr: Asks Slurm for the NodeAddr of a node.

    Returns:
        The address, and where it comes from.

    Raises:
        UnresolvableError: Neither the name nor the NodeAddr leads anywhere.
    """
    first = nodes[0]
    found = resolve(first)
    if found and (len(nodes) == 1 or not _is_loopback(found)):
        return first, "its name resolves"
    address = node_addr(first)
    if address and address != first and resolve(address):
        return address, f"NodeAddr, since `{first}` {f'is {found} here' if found else 'does not resolve'}"
    if found:
        return first, f"its name, which is {found} on the node itself; other nodes must know better"
    raise UnresolvableError(
        f"{first}: neither the node's name nor its NodeAddr (`{address or 'unknown'}`) resolves, "
        "so the other tasks cannot find the first one; the site must fix its DNS or NodeAddr"
    )


def resolve(name: str) -> str | None:
    """Look an address up; None if there is none."""
    try:
        return str(socket.getaddrinfo(name, None, type=socket.SOCK_STREAM)[0][4][0])
    except OSError:
        return None


def _is_loopback(address: str) -> bool:
    return ipaddress.ip_address(address.partition("%")[0]).is_loopback


def first_port(job_id: int, restart: int, port_range: tuple[int, int]) -> int:
    """Choose where an attempt starts to look for its ports.

    Neighbouring job ids are far apart, with room for restarts between them; a restart moves on by one
    place, because the port of the attempt before it may still be in TIME_WAIT, or a lost task may sit on it.

    Args:
        job_id: Slurm's id of this very element of an array (SLURM_JOB_ID), which no other job has.
        restart: How many times the job or the run was started before.
        port_range: First and last port that may be used.
    """
    places = (port_range[1] - port_range[0] + 1) // PORTS
    stride = max(1, places // JOBS_ALIVE)
    return port_range[0] + PORTS * ((job_id * stride + restart) % places)


def choose_port(start: int, port_range: tuple[int, int], is_free: Callable[[int], bool] | None = None) -> int:
    """Find the first place from `start` on, around the range, whose ports are all free on this node.

    Raises:
        UnresolvableError: Every port of the range is taken.
    """
    is_free = is_free or port_is_free
    low, high = port_range
    places = (high - low + 1) // PORTS
    for offset in range(places):
        port = low + (start - low + PORTS * offset) % (PORTS * places)
        if all(is_free(port + extra) for extra in range(PORTS)):
            return port
    raise UnresolvableError(f"all ports from {low} to {high} are taken on {socket.gethostname()}")


def port_is_free(port: int) -> bool:
    """Try to bind the port on all addresses, as torch's store will."""
    for family, address in ((socket.AF_INET6, "::"), (socket.AF_INET, "0.0.0.0")):  # noqa: S104 - bound, never served
        try:
            with socket.socket(family, socket.SOCK_STREAM) as probe:
                if family == socket.AF_INET6:
                    probe.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
                probe.bind((address, port))
        except OSError as error:
            # A machine without IPv6 says so; that does not make the port taken.
            if error.errno not in (errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL):
                return False
    return True
