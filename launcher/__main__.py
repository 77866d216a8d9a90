"""`launcher`, and `python -m launcher`: how the process begins and ends; `launcher.cli` is what it does."""

import contextlib
import gc
import os
import sys
from typing import NoReturn

# Looking for garbage while 400 modules are imported, and asking every installed package for plugins of pydantic, is a
# tenth of the time of a `launcher submit`, for nothing.
gc.set_threshold(1_000_000)  # instead of 700; commands that follow something for days are still cleaned up
os.environ.setdefault("PYDANTIC_DISABLE_PLUGINS", "__all__")


def main() -> NoReturn:
    """Run the command line and leave at once, without taking 400 modules apart: whatever it wrote is written."""
    from launcher.cli import run

    code = run()
    with contextlib.suppress(OSError):  # the reader, say `head`, went away, or the disk is full
        sys.stdout.flush()
        sys.stderr.flush()
    os._exit(code)


if __name__ == "__main__":
    main()
