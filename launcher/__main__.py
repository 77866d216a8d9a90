"""`launcher`, and `python -m launcher`: how the process begins and ends; `launcher.cli` is what it does."""

import contextlib
import gc
import io
import os
import sys
from typing import NoReturn

# Looking for garbage while 400 modules are imported, and asking every installed package for plugins of pydantic, is a
# tenth of the time of a `launcher submit`, for nothing.
gc.set_threshold(1_000_000)  # instead of 700; commands that follow something for days are still cleaned up
os.environ.setdefault("PYDANTIC_DISABLE_PLUGINS", "__all__")


def main() -> NoReturn:
    """Run the command line and leave at once, without taking 400 modules apart: whatever it wrote is written."""
    _make_streams_usable()
    from launcher.cli import run

    code = run()
    with contextlib.suppress(OSError):  # the reader, say `head`, went away, or the disk is full
        sys.stdout.flush()
        sys.stderr.flush()
    os._exit(code)


def _make_streams_usable() -> None:
    """Open what the caller closed (`>&-`), and print `?` for characters that the terminal's encoding does not have."""
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, mode, encoding="utf-8"))  # noqa: SIM115 - as long as the process
    if isinstance(sys.stdout, io.TextIOWrapper):  # Python itself sees to stderr
        sys.stdout.reconfigure(errors="replace")


if __name__ == "__main__":
    main()
