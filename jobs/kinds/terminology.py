"""kind: terminology - sources of terms become an index: read, decide, count mentions in text, publish.

Counted files are kept in `<output>.partial/` until the index is renamed into place, so a run that was stopped or killed
goes on with the next one.
"""

import shutil
from collections import Counter
from functools import partial
from pathlib import Path

from jobs.data.terminology.count_mentions import CountedMentions, count_mentions
from jobs.data.terminology.file_list import TerminologyFiles, terminology_files
from jobs.data.terminology.read_terms import Reading, read_terms
from jobs.data.terminology.record_counts import bad_examples
from jobs.data.terminology.term_index import TermIndex
from jobs.rank.atomic_files import sync_tree, write_durably
from jobs.rank.context import Context
from jobs.rank.publish import is_in_place, put_in_place, refusing_closed
from jobs.rank.stop_flag import noting_stop
from launcher.artifacts.corpus_manifest import MANIFEST, file_sha256
from launcher.artifacts.terminology_manifest import (
    CONCEPTS,
    TERMS,
    CountedText,
    TerminologyManifest,
    TermSourceRecord,
    read_terminology_manifest,
)
from launcher.run.ledger import append_event


def main(context: Context) -> None:
    """Make the index that the recipe describes.

    Raises:
        LauncherError: sources cannot be used, too much is unreadable, or the name is taken.
        StopRequested: a stop was asked for before the index was there.
    """
    files = terminology_files(context)
    if not _is_published(files):
        with noting_stop(context):
            _make_index(files, context)
    shutil.rmtree(files.work.parent, ignore_errors=True)
    manifest = read_terminology_manifest(files.folder)
    print(f"{files.folder}: {summary(manifest)}", flush=True)
    steps = {"last_step": len(files.counted), "total_steps": len(files.counted)}
    append_event(context.run.ledger, context.attempt, **steps, reason="finished", source="terminology")


def _is_published(files: TerminologyFiles) -> bool:
    """Tell whether this very index is there already; anything else there is an error."""

    def describe_other() -> str | None:
        if not (files.folder / MANIFEST).exists():
            return "holds no index of terms"
        there = read_terminology_manifest(files.folder).fingerprint
        if there == files.fingerprint:
            return None
        return f"holds an index of other files or settings (fingerprint {there[:12]}, here {files.fingerprint[:12]})"

    return is_in_place(files.folder, "output", describe_other)


def _make_index(files: TerminologyFiles, context: Context) -> None:
    reading = read_terms(files.recipe, files.terms)
    folder = _make_folder(files)
    manifest = _write(files, reading, folder, CountedMentions())
    if files.counted:
        # Loaded before the workers are forked, so that they share it.
        counted = count_mentions(files, TermIndex(folder), manifest.checksums[TERMS], context)
        _write(files, reading, folder, counted)
    sync_tree(folder)
    put_in_place(folder, files.folder, partial(_is_published, files))


def _make_folder(files: TerminologyFiles) -> Path:
    folder = files.work / "index"
    shutil.rmtree(folder, ignore_errors=True)
    mode = 0o700 if files.recipe.data_use == "credentialed" else 0o777
    with refusing_closed():
        for path in (files.work.parent, files.work, folder):
            path.mkdir(mode=mode, parents=True, exist_ok=True)
    return folder


def _write(files: TerminologyFiles, reading: Reading, folder: Path, counted: CountedMentions) -> TerminologyManifest:
    """Write the tables, and the manifest last."""
    tables, mentions = reading.tables, Counter[str]()
    for one in counted.files:
        mentions.update(one.mentions)
    tables.write(folder, [mentions[concept.id] for concept in tables.concepts])
    manifest = TerminologyManifest(
        terminology=files.recipe.output,
        data_use=files.recipe.data_use,
        fingerprint=files.fingerprint,
        code=files.code,
        concepts=len(tables.concepts),
        terms=len(tables.terms),
        ambiguous=tables.ambiguous,
        sources=_source_records(files, reading),
        counted=_counted_text(counted, mentions) if counted.files else None,
        bad_examples=bad_examples(reading.counts, counted.counts),
        files=(*reading.files, *(one.source for one in counted.files)),
        checksums={name: file_sha256(folder / name) for name in (CONCEPTS, TERMS)},
    )
    write_durably(folder / MANIFEST, manifest.model_dump_json(indent=1) + "\n")
    return manifest


def _source_records(files: TerminologyFiles, reading: Reading) -> tuple[TermSourceRecord, ...]:
    tables = reading.tables
    its = zip(files.terms, reading.counts, tables.origins, tables.left_out, strict=True)
    return tuple(
        TermSourceRecord(
            format=one.source.format,
            license=one.source.license,
            records=counts.records,
            bad_records=counts.bad,
            concepts=concepts,
            terms=terms,
            left_out=dict(sorted(left_out.items())),
        )
        for one, counts, (concepts, terms), left_out in its
    )


def _counted_text(counted: CountedMentions, mentions: Counter[str]) -> CountedText:
    return CountedText(
        documents=sum(one.documents for one in counted.files),
        mentions=mentions.total(),
        concepts=len(mentions),
        records=sum(one.records for one in counted.counts),
        bad_records=sum(one.bad for one in counted.counts),
    )


def summary(manifest: TerminologyManifest) -> str:
    """Say in one line what an index holds."""
    parts = [
        f"{manifest.terms:,} terms of {manifest.concepts:,} concepts, {manifest.ambiguous:,} of them ambiguous",
        *(f"{one.format} {one.terms:,} terms, {one.left_out_total:,} left out" for one in manifest.sources),
    ]
    if its := manifest.counted:
        parts.append(f"{its.mentions:,} mentions of {its.concepts:,} concepts in {its.documents:,} documents")
    return "; ".join(parts)
