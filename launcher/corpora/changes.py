"""What `clean.terminology` changed in documents of a corpus."""

import json
from collections.abc import Collection
from dataclasses import dataclass
from itertools import islice

from launcher.artifacts.corpus_manifest import CHANGES, Split, file_sha256
from launcher.corpora.find import PublishedCorpus
from launcher.corpora.verify import Flaw
from launcher.errors import LauncherError


@dataclass(frozen=True)
class TermChange:
    """One term that was replaced."""

    start: int
    """Where the new one begins, in characters of the text after the round of changes that it belongs to."""
    old: str
    new: str
    why: str
    """`normalised`, `masked` or `synonym`."""


def read_changes(corpus: PublishedCorpus, split: Split, numbers: Collection[int]) -> dict[int, list[TermChange]]:
    """Read what was changed in documents of a split, by their numbers.

    Raises:
        LauncherError: the corpus was made without `clean.terminology`, or the file of its changes is damaged.
    """
    if corpus.manifest.changes is None:
        raise LauncherError(f"{corpus.folder}: was made without `clean.terminology`; leave out `--changes`")
    if split != "train":  # held-out documents are never changed
        return {number: [] for number in numbers}
    wanted, path = set(numbers), corpus.folder / CHANGES
    try:
        with path.open("rb") as file:
            lines = enumerate(islice(file, max(wanted, default=-1) + 1))
            found = {number: _parse(line) for number, line in lines if number in wanted}
    except (FileNotFoundError, ValueError, TypeError):
        found = {}
    if found.keys() != wanted:
        raise LauncherError(f"{path}: is damaged; `launcher corpus verify` shows how")
    return found


def check_changes(corpus: PublishedCorpus) -> list[Flaw]:
    """Compare the checksum of the file of changes, if there should be one and it has the right size."""
    expected, path = corpus.manifest.changes, corpus.folder / CHANGES
    if expected is None or not path.is_file() or path.stat().st_size != expected.size:
        return []
    return [] if file_sha256(path) == expected.sha256 else [Flaw(CHANGES, "has another SHA-256 than the manifest says")]


def _parse(line: bytes) -> list[TermChange]:
    return [TermChange(*edit) for edits in json.loads(line) for edit in edits]
