"""Once all source files are processed: drop documents that others replace, merge shards, write the manifest.

Everything made here is whole or absent, and its inputs are only read. So this can be killed at any time and run again;
the bytes depend on the source files and the recipe alone.
"""

import hashlib
from collections.abc import Sequence
from functools import partial

from jobs.data.clean.decontaminate import account
from jobs.data.corpus.changes import merge_changes
from jobs.data.corpus.counts import count_documents, count_tokens, first_unreadable, summary
from jobs.data.corpus.file_list import CorpusFileList
from jobs.data.corpus.merge_shards import Merger, ShardInput, lay_out, tokens_that_stay
from jobs.data.corpus.name_check import check_names
from jobs.data.corpus.progress import OnProgress
from jobs.data.corpus.source_file import ProcessedFile
from jobs.data.corpus.source_files import code_versions
from jobs.data.dedup.decide import NEAR_DUPLICATE, DecidedFile, decide, mark
from jobs.data.dedup.document_keys import load_keys
from jobs.data.dedup.file_order import require_order
from jobs.data.dedup.minhash import minhash_config
from jobs.data.dedup.near_duplicates import MAX_DOCUMENTS, NearDuplicates
from jobs.rank.atomic_files import sync, write_durably
from jobs.rank.watchdog import WATCHDOG
from launcher.artifacts.corpus_manifest import (
    MANIFEST,
    SPLITS,
    TOKENIZER,
    ChangesFile,
    Manifest,
    Shard,
    SourceFile,
    Split,
    SplitRule,
    Tally,
    TermsUsed,
)
from launcher.errors import LauncherError

Shards = dict[Split, tuple[Shard, ...]]


def finalise(
    files: CorpusFileList, processed: Sequence[ProcessedFile], on_progress: OnProgress = lambda *_: None
) -> None:
    """Make the corpus of all processed files; it is complete once its manifest is there.

    Args:
        files: The file list.
        processed: The record of each file.
        on_progress: Called with the phase, the steps done and all steps.

    Raises:
        LauncherError: no record has a value that a source names, it is unclear which of two files is newer, or no
            document is left for training.
        StopRequested: a stop was asked for before the end; what is done by then is not done again.
    """
    check_names(files, processed)
    keys = [load_keys(files.keys(number)) for number in range(len(processed))]
    require_order(files.sources, keys)
    decided = decide(keys, files.recipe.clean.exact_duplicates == "drop")
    WATCHDOG.heartbeat()
    drop_near_duplicates(files, processed, decided, on_progress)
    counts = count_documents(processed, decided)
    if not counts.documents["train"]:
        raise LauncherError(f"sources: no document is left for training ({summary(counts)}); check files and `clean`")
    shards = merge_shards(files, processed, decided, on_progress)
    write_durably(files.work / TOKENIZER, files.encoder.backend.to_str())
    sources = tuple(counted(files, one, its) for one, its in zip(processed, decided, strict=True))
    changes = merge_changes(files, decided)
    write_manifest(files, processed, sources, count_tokens(counts, shards), shards, changes)


def drop_near_duplicates(
    files: CorpusFileList,
    processed: Sequence[ProcessedFile],
    decided: Sequence[DecidedFile],
    on_progress: OnProgress,
) -> None:
    """Drop near duplicates if the recipe says so.

    Raises:
        LauncherError: there are too many documents.
    """
    minhash = files.recipe.clean.near_duplicates
    if minhash is None:
        return
    if sum(len(one.decisions) for one in decided) > MAX_DOCUMENTS:
        raise LauncherError(f"clean.near_duplicates: compares up to {MAX_DOCUMENTS:,} documents; make several corpora")
    signatures = [files.signatures(number) for number in range(len(processed))]
    folder = files.parts / "near" / _stamp(files, processed, decided)
    search = NearDuplicates(minhash_config(minhash), signatures, decided, folder)
    places = search.run(files.recipe.resources.cpus_per_task, partial(on_progress, "near duplicates"))
    mark(decided, places, NEAR_DUPLICATE)


def _stamp(files: CorpusFileList, processed: Sequence[ProcessedFile], decided: Sequence[DecidedFile]) -> str:
    """Checksum of the documents that are compared, and of the code that does it."""
    checksum = hashlib.sha256(files.code.encode())
    for one, its in zip(processed, decided, strict=True):
        checksum.update(one.model_dump_json().encode())
        checksum.update(its.decisions.data)
    return checksum.hexdigest()[:16]


def merge_shards(
    files: CorpusFileList,
    processed: Sequence[ProcessedFile],
    decided: Sequence[DecidedFile],
    on_progress: OnProgress,
) -> Shards:
    """Write the documents that stay into the shards of the corpus."""
    merges = [merge for split in SPLITS for merge in lay_out(split, _inputs(split, processed, decided), files.parts)]
    merger = Merger(files.parts, files.work, files.encoder.dtype, files.code)
    made = merger.run(merges, files.recipe.resources.cpus_per_task, partial(on_progress, "merging"))
    return {split: tuple(shard for shard in made if shard.name.startswith(f"{split}/")) for split in SPLITS}


def _inputs(split: Split, processed: Sequence[ProcessedFile], decided: Sequence[DecidedFile]) -> list[ShardInput]:
    both = zip(processed, decided, strict=True)
    return [ShardInput(one.shards[split], its.stays_in(split)) for one, its in both if split in one.shards]


def counted(files: CorpusFileList, processed: ProcessedFile, decided: DecidedFile) -> SourceFile:
    """Add to the description of a source file what the corpus holds of it."""
    inputs = {split: one for split in SPLITS for one in _inputs(split, [processed], [decided])}
    documents = {split: int(one.stays.sum()) for split, one in inputs.items()}
    tokens = {split: tokens_that_stay(one, files.parts) for split, one in inputs.items()}
    none = dict.fromkeys(SPLITS, 0)
    return processed.source.model_copy(update={"documents": none | documents, "tokens": none | tokens})


def split_rule(files: CorpusFileList) -> SplitRule:
    """Say how documents were held out."""
    rule = SplitRule(validation=files.recipe.validation)
    if files.terminology is None:
        return rule
    return rule.model_copy(update={"rule": rule.rule.replace("text,", "text before `clean.terminology`,")})


def terms_used(files: CorpusFileList) -> TermsUsed | None:
    """Describe the index of terms that was used."""
    steps = files.terminology
    if steps is None:
        return None
    return TermsUsed(index=steps.settings.index, fingerprint=steps.index.manifest.fingerprint, seed=steps.seed)


def write_manifest(
    files: CorpusFileList,
    processed: Sequence[ProcessedFile],
    sources: tuple[SourceFile, ...],
    counts: Tally,
    shards: Shards,
    changes: ChangesFile | None,
) -> None:
    """Write the manifest, once everything that it lists is on disk."""
    contaminated = [one.contaminated for one in processed]
    manifest = Manifest(
        corpus=files.recipe.corpus,
        data_use=files.recipe.data_use,
        fingerprint=files.fingerprint,
        code=code_versions(files, processed),
        tokenizer=files.encoder.record,
        dtype=files.encoder.dtype,
        split=split_rule(files),
        clean=files.recipe.clean.model_dump(mode="json"),
        decontamination=account(files.evaluation, contaminated) if files.evaluation else (),
        terminology=terms_used(files),
        changes=changes,
        counts=counts,
        bad_examples=tuple(first_unreadable(dict(enumerate(processed)))),
        sources=sources,
        shards=shards,
    )
    for folder in (*(files.work / split for split in SPLITS if shards[split]), files.work):
        sync(folder)
    write_durably(files.work / MANIFEST, manifest.model_dump_json(indent=1) + "\n")
    sync(files.work)
