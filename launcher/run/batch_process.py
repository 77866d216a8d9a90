"""The process that carries out a run on its first node: what it is called, and how it is recognised."""

import os
from collections.abc import Iterable
from pathlib import Path

BATCH_MODULE = "jobs.batch.main"
"""Started by the batch script."""
DEBUGGER = "LAUNCHER_DEBUGGER"
"""Variable that names the debugger of a debug session and the rank that has it: `pdb:3`, `debugpy:3`."""
START_SECONDS = "LAUNCHER_START_SECONDS"
"""Variable that says how long ranks wait for each other at the start, if not as long as usual."""
INTERACTIVE_MODULE = "jobs.batch.interactive"
"""Started by `launcher debug`."""
ATTACHED_MODULE = "jobs.batch.attached"
"""Started by `launcher attach`."""
CHAT_MODULE = "jobs.chat"
"""Started by `launcher chat`."""
CHAT_VARIABLE = "LAUNCHER_CHAT"
"""In which it finds what to do (`launcher.recipe.sections.chat.ChatRequest`)."""
CONTAINED_CHAT_MODULE = "jobs.batch.contained_chat"
"""Started by `launcher chat` on the host, where the chat program runs in a container."""
CHAT_SITE = "LAUNCHER_CHAT_SITE"
"""In which that finds JSON: the resolved profile (`cluster`), further `folders` that the program reads, and whether
somebody types (`has_terminal`)."""

# Runs that 0.1 started may still be alive while 0.2 is used; remove these names in 0.3.
_NAMES_OF_0_1 = ("jobs.runtime.batch", "jobs.runtime.interactive")
_NAMES = frozenset(name.encode() for name in (BATCH_MODULE, INTERACTIVE_MODULE, *_NAMES_OF_0_1))


def is_batch_process(words: Iterable[bytes]) -> bool:
    """Tell whether these are the words of a command line that carries out a run."""
    return not _NAMES.isdisjoint(words)


def names_submission(words: Iterable[bytes], folder: str | Path) -> bool:
    """Tell whether a command line has a submission's folder or script among its words, by whatever path.

    Numbers of processes come again, after a restart of the machine at the latest, so only this tells whether a process
    that has the number of a run's is still that run's.
    """
    wanted = os.path.realpath(os.fsencode(folder))
    paths = {os.path.realpath(word) for word in words if word.startswith(b"/")}
    return not paths.isdisjoint((wanted, os.path.join(wanted, b"submission.sh")))
