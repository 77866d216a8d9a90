"""What `clean.terminology` changed in each document for training, in the order of the documents in the corpus.

`changes.jsonl` of a corpus has a line for each: a list of rounds of edits, each `[start, old, new, why]`, see
`jobs.data.terminology.edits`; `[]` if nothing was changed.
"""

import hashlib
import json
from collections.abc import Iterable, Iterator, Sequence
from typing import BinaryIO

from datatrove.data import Document

from jobs.data.corpus.file_list import CorpusFileList
from jobs.data.dedup.decide import DecidedFile
from jobs.rank.atomic_files import replace_durably
from jobs.rank.watchdog import WATCHDOG
from launcher.artifacts.corpus_manifest import CHANGES, ChangesFile


def record_changes(documents: Iterable[Document], file: BinaryIO) -> Iterator[Document]:
    """Pass documents on, and write a line for each that is trained on."""
    for document in documents:
        if document.metadata["split"] == "train":
            file.write(json.dumps(document.metadata.get("changes", []), separators=(",", ":")).encode() + b"\n")
        yield document


def merge_changes(files: CorpusFileList, decided: Sequence[DecidedFile]) -> ChangesFile | None:
    """Write the changes of the documents that stay; None if the recipe does not change terms."""
    if files.terminology is None:
        return None
    checksum, size = hashlib.sha256(), 0
    with replace_durably(files.work / CHANGES) as merged:
        for number, its in enumerate(decided):
            WATCHDOG.heartbeat()
            with files.changes(number).open("rb") as part:
                for line, stays in zip(part, its.stays_in("train").tolist(), strict=True):
                    if stays:
                        merged.write(line)
                        checksum.update(line)
                        size += len(line)
    return ChangesFile(sha256=checksum.hexdigest(), size=size)
