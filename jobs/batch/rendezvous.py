"""Where the ranks of an attempt meet: an address, a port nobody else uses."""

import errno
import ipaddress
import socket
from collections.abc import Callable, Sequence

PORTS = 2
"""Ports of one attempt: torch.distributed's store, and the preflight's beside it."""

JOBS_ALIVE = 1000
"""Job ids that lie closer together than this never want the same port, as far as the port range allows."""


class UnresolvableError(Exception):
    """No way to the first node was found."""


def master_address(nodes: Sequence[str], node_addr: Callable[[str], str | None]) -> tuple[str, str]:
    """Find an address at which all nodes reach the first one.

    Its name, if that leads anywhere but to the asking machine itself; else its NodeAddr, which a site
    sets where names do not resolve. Never a silent localhost: ranks on other nodes would wait there forever.

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
    if found and (len(nodes) == 1 or not ipaddress.ip_address(found.partition("%")[0]).is_loopback):
        return first, "its name resolves"
    address = node_addr(first)
    if address and address != first and resolve(address):
        return address, f"NodeAddr, since `{first}` {f'is {found} here' if found else 'does not resolve'}"
    if found:
        return (
            first,
            f"its name, which is {found} on the node itself and must be another address on the others",
        )
    raise UnresolvableError(
        f"{first}: neither the node's name nor its NodeAddr (`{address or 'unknown'}`) resolves, "
        "so the other ranks cannot find the first one; the site must fix its DNS or NodeAddr"
    )


def resolve(name: str) -> str | None:
    """Look an address up; None if there is none."""
    try:
        return str(socket.getaddrinfo(name, None, type=socket.SOCK_STREAM)[0][4][0])
    except OSError:
        return None


def first_port(job_id: int, restart: int, port_range: tuple[int, int]) -> int:
    """Choose where an attempt starts to look for its ports.

    Neighbouring job ids are far apart, with room for restarts between them; a restart moves on by one
    place, because the port of the attempt before it may still be in TIME_WAIT, or a lost rank may hold it.

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
