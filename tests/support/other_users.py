"""Being another user for a while, which root may."""

import contextlib
import os
from collections.abc import Iterator, Sequence


@contextlib.contextmanager
def as_user(user: int, groups: Sequence[int] = ()) -> Iterator[None]:
    """Be a user, who is in these groups besides the own one of the same number."""
    before = os.getgroups()
    os.setgroups(list(groups))
    os.setegid(user)
    os.seteuid(user)
    try:
        yield
    finally:
        os.seteuid(0)
        os.setegid(0)
        os.setgroups(before)
