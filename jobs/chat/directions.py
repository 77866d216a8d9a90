"""How a browser elsewhere reaches the page of `launcher chat --web`."""

import os
from collections.abc import Iterator

from launcher.run.home import user_name

ADDRESS = "127.0.0.1"
"""Where the page listens."""
USER = "chat"


def directions(port: int, password: str, login_host: str | None) -> Iterator[str]:
    """Give the lines that the program shows once.

    Args:
        port: Of the page on this machine.
        password: Of this start.
        login_host: Machine through which this one is reached; None: none is needed.
    """
    user, node = user_name(), os.uname().nodename
    jump = f"-J {user}@{login_host} " if login_host else ""
    yield f"from your own computer:  ssh -N -L {port}:{ADDRESS}:{port} {jump}{user}@{node}"
    yield f"then open:               http://{ADDRESS}:{port}"
    yield f"user:                    {USER}"
    yield f"password:                {password}"
    yield "Ctrl-C ends the page and all conversations"
