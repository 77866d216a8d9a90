"""A prepare of very many files or documents whose sources have been processed: what lists and finalises them is real.

    python -m tests.support.many_sources FOLDER --files 100000 --documents 1
    python -m tests.support.many_sources FOLDER --files 250 --documents 20000 --citations

Prints one JSON object: seconds of CPU and of wall clock of each part, the most memory of one process, and sizes.
"""

import argparse
import hashlib
import json
import os
import resource
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from jobs.data.corpus.file_list import CorpusFileList, corpus_file_list, describe_file
from jobs.data.corpus.finalise import finalise
from jobs.data.corpus.source_file import ProcessedFile
from jobs.data.corpus.source_files import find_done
from jobs.data.readers.source_stream import SourceStream
from jobs.kinds.prepare import publish
from launcher.artifacts.corpus_manifest import MANIFEST, Shard, Tally, read_manifest
from tests.support.prepare_runs import make_context

TOKENS = 4
"""Of each document."""
LINKS = 50_000
"""Names that a file gets at most: file systems limit them."""
_REPEATED = 10
"""Each tenth citation has the number of one of the file before, which it replaces."""


def main() -> int:
    """Simulate, carry out, and say what it took."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--files", type=int, required=True)
    parser.add_argument("--documents", type=int, required=True, help="of each file")
    parser.add_argument("--citations", action="store_true", help="with identities and versions, as MEDLINE's")
    options = parser.parse_args()
    found: dict[str, Any] = {}
    with _timed(found, "simulating"):
        _write_sources(options.folder / "files", options.files)
    context = make_context(
        options.folder,
        sources=[{"format": "pile", "files": "./files/*.jsonl", "license": "MIT"}],
        clean={"exact_duplicates": "drop" if options.citations else "keep"},
        validation=0.0,
    )
    with _timed(found, "listing"):
        files = corpus_file_list(context)
    with _timed(found, "simulating more"):
        _process(files, options)
    with _timed(found, "reading records"):
        processed = list(find_done(files, range(len(files.sources)), context).values())
    with _timed(found, "finalising"):
        finalise(files, processed)
    with _timed(found, "publishing"):
        publish(files)
    manifest = read_manifest(files.folder)
    found |= {
        "memory": _peak(),
        "manifest_bytes": (files.folder / MANIFEST).stat().st_size,
        "documents": manifest.counts.documents["train"],
        "dropped": manifest.counts.dropped,
        "shards": len(manifest.shards["train"]),
    }
    print(json.dumps(found))  # noqa: T201 - its answer
    return 0


@contextmanager
def _timed(found: dict[str, Any], what: str) -> Iterator[None]:
    began, worked = time.monotonic(), sum(os.times()[:4])
    yield
    found[what] = {"seconds": round(time.monotonic() - began, 1), "cpu": round(sum(os.times()[:4]) - worked, 1)}


def _peak() -> int:
    """The most that this process or one that it started has held, in bytes."""
    used = (resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return max(used) * 1024


def _write_sources(folder: Path, count: int) -> None:
    folder.mkdir(parents=True)
    for number in range(count):
        (folder / f"{number:06d}.jsonl").write_text('{"text": "one"}\n')


def _process(files: CorpusFileList, options: argparse.Namespace) -> None:
    """Write what processing each file would have left: its record, its keys, and its shard."""
    (files.parts / "train").mkdir(parents=True)
    stream = SourceStream(files.sources[0][0])
    list(stream.lines())
    ids = np.arange(options.documents * TOKENS, dtype=files.encoder.dtype) % 300
    ends = TOKENS * np.arange(1, options.documents + 1, dtype="<u8")
    sums = [hashlib.sha256(array.tobytes()).hexdigest() for array in (ids, ends)]
    tally = Tally(records=options.documents, documents={"train": options.documents, "validation": 0})
    for number, (path, source) in enumerate(files.sources):
        status, name = path.stat(), f"train/{number:05d}.ds"
        for suffix, array in (("", ids), (".index", ends)):
            _share(files.parts / f"{name}{suffix}", array, number)
        _write_keys(files, number, options)
        shard = Shard(name=name, tokens=len(ids), documents=options.documents, sha256=sums[0], index_sha256=sums[1])
        one = ProcessedFile(
            settings=files.settings,
            code=files.code,
            source=describe_file(stream, source).model_copy(update={"path": str(path), "size": status.st_size}),
            modified_ns=status.st_mtime_ns,
            tally=tally,
            first_bad=(),
            shards={"train": shard},
        )
        files.record(number).write_text(one.model_dump_json(indent=1))


def _share(path: Path, array: Any, number: int) -> None:
    """Write an array, or give the file that holds it already another name."""
    first = number - number % LINKS
    if first == number:
        array.tofile(path)
    else:
        os.link(path.with_name(path.name.replace(f"{number:05d}", f"{first:05d}")), path)


def _write_keys(files: CorpusFileList, number: int, options: argparse.Namespace) -> None:
    if not options.citations and number % LINKS:
        os.link(files.keys(number - number % LINKS), files.keys(number))
        return
    count, first = options.documents, number * options.documents
    ordinals, own = np.arange(count, dtype="<u4"), np.arange(first, first + count, dtype="<u8")
    identities = own.copy()
    if number:
        identities[::_REPEATED] -= count - 1  # one that is not replaced itself
    identified = ordinals if options.citations else ordinals[:0]
    columns = {
        "ordinals": ordinals,
        "splits": np.zeros(count, "u1"),
        "texts": own * np.uint64(0x9E3779B97F4A7C15),
        "licenses": np.zeros(count, "<u4"),
        "signed": ordinals[:0],
        "identified": identified,
        "identities": identities[: len(identified)],
        "versions": np.ones(len(identified), "<u4"),
        "deleted": np.empty(0, "<u8"),
        "deleted_versions": np.empty(0, "<u4"),
        "license_names": np.array(["MIT"]),
    }
    np.savez(files.keys(number), allow_pickle=False, **columns)


if __name__ == "__main__":
    sys.exit(main())
