"""Redacts unexpected errors in runs that read credentialed text: type and place are shown, the message is not.

Messages of libraries may quote their input. Our own errors do not (`jobs.data.readers.source_stream`), and those of the
file system name a file.
"""

import os
import re
import traceback
from collections.abc import Iterator
from contextlib import contextmanager

from pydantic import ValidationError

from launcher.errors import LauncherError
from launcher.recipe import Recipe

_OURS = ("launcher.", "jobs.", "concurrent.futures.")
_FRAME = re.compile(r'^  File "([^"\n]+\.py)", line (\d+), in ([\w<>.]+)$', re.MULTILINE)


class RedactedError(Exception):
    """Replaces an error whose message may quote text."""


@contextmanager
def redacting(recipe: Recipe) -> Iterator[None]:
    """Let no error pass that could quote credentialed text.

    Raises:
        LauncherError: replaces pydantic's, without values.
        RedactedError: replaces any other.
    """
    try:
        yield
    except Exception as error:
        if recipe.data_use != "credentialed" or not recipe.may_quote_text or _is_harmless(error):
            raise
        what = "message withheld: it may quote credentialed text"
        if isinstance(error, ValidationError):
            kinds = ", ".join(sorted({fault["type"] for fault in error.errors(include_input=False)}))
            raise LauncherError(f"{error.title}: is invalid ({kinds}); {what}") from None
        raise RedactedError("\n  ".join([f"{type(error).__name__} ({what}):", *_frames(error)])) from None


def describe_invalid(error: ValidationError) -> str:
    """Describe what pydantic found, without the values."""
    faults = error.errors(include_input=False, include_url=False)
    return "; ".join(f"{'.'.join([error.title, *map(str, fault['loc'])])}: {fault['msg']}" for fault in faults)


def _is_harmless(error: Exception) -> bool:
    is_of_a_file = isinstance(error, OSError) and error.errno is not None
    return is_of_a_file or type(error).__module__.startswith(_OURS)


def _frames(error: Exception) -> list[str]:
    # In a worker process the traceback arrives as a text that ends with the message.
    places = [(frame.filename, frame.lineno, frame.name) for frame in traceback.extract_tb(error.__traceback__)]
    in_worker = [place for place in _FRAME.findall(str(error.__cause__ or "")) if os.path.isfile(place[0])]
    return [f"{path}:{line} in {name}" for path, line, name in (*places, *in_worker)]
