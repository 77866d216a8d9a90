"""What is told of an unexpected error in a run that reads credentialed text: type and place, never the message.

Messages of libraries quote what they could not digest. Our own errors do not (`jobs.data.readers.intake`), and a file
system's name a file.
"""

import os
import re
import traceback
from collections.abc import Iterator
from contextlib import contextmanager

from pydantic import ValidationError

from launcher.errors import LauncherError
from launcher.recipe import Recipe

_SEES_NO_TEXT = ("cpt", "merge")
"""Kinds that read token ids and weights: messages of torch and NCCL are needed there."""
_OURS = ("launcher.", "jobs.", "concurrent.futures.")
_FRAME = re.compile(r'^  File "([^"\n]+\.py)", line (\d+), in ([\w<>.]+)$', re.MULTILINE)


class WithheldError(Exception):
    """Stands for an error whose message may quote text."""


@contextmanager
def withholding(recipe: Recipe) -> Iterator[None]:
    """Let no error pass that could quote credentialed text.

    Raises:
        LauncherError: instead of pydantic's, in words without values.
        WithheldError: instead of any other.
    """
    try:
        yield
    except Exception as error:
        if recipe.data_use != "credentialed" or recipe.kind in _SEES_NO_TEXT or _is_harmless(error):
            raise
        what = "its message is withheld, for it may quote credentialed text"
        if isinstance(error, ValidationError):
            kinds = ", ".join(sorted({fault["type"] for fault in error.errors(include_input=False)}))
            raise LauncherError(f"{error.title}: is not valid ({kinds}); {what}") from None
        raise WithheldError("\n  ".join([f"{type(error).__name__} ({what}):", *_frames(error)])) from None


def say_invalid(error: ValidationError) -> str:
    """Say what pydantic found, without the values that it found it in."""
    faults = error.errors(include_input=False, include_url=False)
    return "; ".join(f"{'.'.join([error.title, *map(str, fault['loc'])])}: {fault['msg']}" for fault in faults)


def _is_harmless(error: Exception) -> bool:
    is_of_a_file = isinstance(error, OSError) and error.errno is not None
    return is_of_a_file or type(error).__module__.startswith(_OURS)


def _frames(error: Exception) -> list[str]:
    """Where it happened; in a worker process, whose traceback comes as a text that ends with the message, as well."""
    places = [(frame.filename, frame.lineno, frame.name) for frame in traceback.extract_tb(error.__traceback__)]
    in_worker = [place for place in _FRAME.findall(str(error.__cause__ or "")) if os.path.isfile(place[0])]
    return [f"{path}:{line} in {name}" for path, line, name in (*places, *in_worker)]
