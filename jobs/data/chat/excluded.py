"""Which records a source of conversations leaves out."""

import orjson

from jobs.data.corpus.file_list import matching
from jobs.data.readers.text_file import read_text_file
from jobs.rank.context import Context
from launcher.errors import LauncherError
from launcher.recipe.sections.chat_sources import ChatSource, PubMedQaSource


def excluded_records(context: Context, number: int, source: ChatSource) -> frozenset[str]:
    """Return the PubMed numbers that a source leaves out; raise LauncherError if their files cannot be read."""
    if not isinstance(source, PubMedQaSource) or source.exclude is None:
        return frozenset()
    key, names = f"data.sources.{number}.exclude", set[str]()
    for path in matching(context, key, source.exclude):
        try:
            names |= orjson.loads(read_text_file(path)).keys()
        except (orjson.JSONDecodeError, AttributeError):
            raise LauncherError(
                f"{key}: {path} is not a JSON object; name files like `test_ground_truth.json`"
            ) from None
    return frozenset(names)
