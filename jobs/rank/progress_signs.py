"""Signs that a library which gives no heartbeats is not stuck. Standard library only."""

import os
import socket
import struct
import time
from collections.abc import Collection
from contextlib import suppress

_WORK = 0.01
"""Share of the time that code has to compute to show that it makes progress."""
_CARRIED = struct.Struct("QQ")
_CARRIED_AT = 120
"""Where Linux (4.1 and later) tells in `struct tcp_info` of bytes that were sent and acknowledged, and received."""
_TCP_INFO_BYTES = 256


class Computing:
    """A thread computes. One that waits forever, for a lock or a file server, does not.

    Args:
        thread: Its `threading.get_ident`.
    """

    def __init__(self, thread: int) -> None:
        self._clock = time.pthread_getcpuclockid(thread)
        self._counted = time.clock_gettime(self._clock)

    def went_on(self, seconds: float) -> bool:
        """Tell whether the thread has computed enough since it was last found to have.

        Args:
            seconds: Since the last look.
        """
        now = time.clock_gettime(self._clock)
        if now - self._counted < _WORK * seconds:
            return False
        self._counted = now
        return True


class Transferring:
    """Connections of this process carry bytes, or its threads compute, as for checksums of what is there already.

    Args:
        ignored: Connections that carry something else, as `carried_bytes` names them.
    """

    def __init__(self, ignored: Collection[str] = ()) -> None:
        self._ignored = ignored
        self._carried = carried_bytes()
        self._computed = float("inf")

    def went_on(self, seconds: float) -> bool:
        """Tell whether there was any of that since the last look. What the thread that looks computes does not count.

        Args:
            seconds: Since the last look.
        """
        before, self._carried = self._carried, carried_bytes()
        counted = (item for item in self._carried.items() if item[0] not in self._ignored)
        moves = any(count > before.get(name, 0) for name, count in counted)
        computed, self._computed = self._computed, time.process_time() - time.thread_time()
        return moves or self._computed - computed >= _WORK * seconds


def carried_bytes() -> dict[str, int]:
    """Return how many bytes each TCP connection of this process has carried, by its name in /proc."""
    found: dict[str, int] = {}
    for number in os.listdir("/proc/self/fd"):
        with suppress(OSError, struct.error):  # closed meanwhile, no TCP connection, or an older Linux
            name = os.readlink(f"/proc/self/fd/{number}")
            if name.startswith("socket:"):
                found[name] = _carried_by(int(number))
    return found


def _carried_by(descriptor: int) -> int:
    with socket.fromfd(descriptor, socket.AF_INET, socket.SOCK_STREAM) as one:  # a copy: libraries close theirs
        told = one.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _TCP_INFO_BYTES)
    return sum(_CARRIED.unpack_from(told, _CARRIED_AT))
