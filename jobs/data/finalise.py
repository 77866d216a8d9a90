"""When all parts are there: drop what other documents replace, merge shards, write the manifest.

Parts are only read, and everything made here is whole or absent. So this can be killed at any moment and
run again, and the bytes depend on the source files and the recipe alone.
"""

import hashlib
from collections.abc import Callable, Sequence
from functools import partial

from jobs.data.clean.decontaminate import account
from jobs.data.counts import count_documents, count_tokens, summary
from jobs.data.decide import NEAR_DUPLICATE, Judged, decide, mark
from jobs.data.keys import load_keys
from jobs.data.making import code_versions
from jobs.data.merge import Merger, Piece, lay_out, tokens_that_stay
from jobs.data.near import MAX_DOCUMENTS, NearDuplicates
from jobs.data.parts import Part
from jobs.data.plan import Plan
from jobs.data.progress import TellPhase, tell_nobody
from jobs.data.signatures import minhash_config
from jobs.runtime.durable import sync, write_durably
from jobs.runtime.watchdog import WATCHDOG
from launcher.corpus import MANIFEST, SPLITS, TOKENIZER, Manifest, Shard, SourceFile, Split, SplitRule, Tally
from launcher.errors import LauncherError

StopWanted = Callable[[], bool]
Shards = dict[Split, tuple[Shard, ...]]


def finalise(plan: Plan, parts: Sequence[Part], is_stop_wanted: StopWanted, tell: TellPhase = tell_nobody) -> bool:
    """Make the corpus of its parts; it is whole once its manifest is there.

    Args:
        plan: Of the corpus.
        parts: All of them, in the order of their files.
        is_stop_wanted: Asked about once a second.
        tell: Told how far it is.

    Returns:
        False if a stop was asked for before the end; what is done by then is not done again.

    Raises:
        LauncherError: no document is left for training.
    """
    judged = decide(
        [load_keys(plan.keys(number)) for number in range(len(parts))], plan.recipe.clean.exact_duplicates == "drop"
    )
    WATCHDOG.beat()
    if not drop_near_duplicates(plan, parts, judged, is_stop_wanted, tell):
        return False
    counts = count_documents(parts, judged)
    if not counts.documents["train"]:
        raise LauncherError(f"sources: no document is left for training ({summary(counts)}); check files and `clean`")
    shards = merge_parts(plan, parts, judged, is_stop_wanted, tell)
    if shards is None:
        return False
    write_durably(plan.work / TOKENIZER, plan.encoder.backend.to_str())
    sources = tuple(counted(plan, part, its) for part, its in zip(parts, judged, strict=True))
    write_manifest(plan, parts, sources, count_tokens(counts, shards), shards)
    return True


def drop_near_duplicates(
    plan: Plan, parts: Sequence[Part], judged: Sequence[Judged], is_stop_wanted: StopWanted, tell: TellPhase
) -> bool:
    """Drop near duplicates if the recipe says so; tell whether that came to its end before a stop.

    Raises:
        LauncherError: there are too many documents.
    """
    minhash = plan.recipe.clean.near_duplicates
    if minhash is None:
        return True
    if sum(len(part.verdicts) for part in judged) > MAX_DOCUMENTS:
        raise LauncherError(f"clean.near_duplicates: compares up to {MAX_DOCUMENTS:,} documents; make several corpora")
    signatures = [plan.signatures(number) for number in range(len(parts))]
    folder = plan.parts / "near" / _stamp(plan, parts, judged)
    search = NearDuplicates(minhash_config(minhash), signatures, judged, folder)
    places = search.run(plan.recipe.resources.cpus_per_task, is_stop_wanted, partial(tell, "near duplicates"))
    if places is None:
        return False
    mark(judged, places, NEAR_DUPLICATE)
    return True


def _stamp(plan: Plan, parts: Sequence[Part], judged: Sequence[Judged]) -> str:
    """Sum up which documents of which files are compared, and by which code."""
    checksum = hashlib.sha256(plan.code.encode())
    for part, its in zip(parts, judged, strict=True):
        checksum.update(part.model_dump_json().encode())
        checksum.update(its.verdicts.data)
    return checksum.hexdigest()[:16]


def merge_parts(
    plan: Plan, parts: Sequence[Part], judged: Sequence[Judged], is_stop_wanted: StopWanted, tell: TellPhase
) -> Shards | None:
    """Make shards of what stays; None if a stop was asked for before the end."""
    merges = {split: lay_out(split, _pieces(split, parts, judged), plan.parts) for split in SPLITS}
    merger = Merger(plan.parts, plan.work, plan.encoder.dtype, plan.code)
    everything = [merge for split in SPLITS for merge in merges[split]]
    made = merger.run(everything, plan.recipe.resources.cpus_per_task, is_stop_wanted, partial(tell, "merging"))
    if made is None:
        return None
    return {split: tuple(shard for shard in made if shard.name.startswith(f"{split}/")) for split in SPLITS}


def _pieces(split: Split, parts: Sequence[Part], judged: Sequence[Judged]) -> list[Piece]:
    both = zip(parts, judged, strict=True)
    return [Piece(part.shards[split], its.stays_in(split)) for part, its in both if split in part.shards]


def counted(plan: Plan, part: Part, judged: Judged) -> SourceFile:
    """Say of a source file what the corpus holds of it."""
    pieces = {split: piece for split in SPLITS for piece in _pieces(split, [part], [judged])}
    documents = {split: int(piece.stays.sum()) for split, piece in pieces.items()}
    tokens = {split: tokens_that_stay(piece, plan.parts) for split, piece in pieces.items()}
    none = dict.fromkeys(SPLITS, 0)
    return part.source.model_copy(update={"documents": none | documents, "tokens": none | tokens})


def write_manifest(
    plan: Plan, parts: Sequence[Part], sources: tuple[SourceFile, ...], counts: Tally, shards: Shards
) -> None:
    """Write the manifest, when everything that it tells of is on disk."""
    manifest = Manifest(
        corpus=plan.recipe.corpus,
        data_use=plan.recipe.data_use,
        fingerprint=plan.fingerprint,
        code=code_versions(plan, parts),
        tokenizer=plan.encoder.record,
        dtype=plan.encoder.dtype,
        split=SplitRule(validation=plan.recipe.validation),
        clean=plan.recipe.clean.model_dump(mode="json"),
        decontamination=account(plan.evaluation, [part.contaminated for part in parts]) if plan.evaluation else (),
        counts=counts,
        sources=sources,
        shards=shards,
    )
    for folder in (*(plan.work / split for split in SPLITS if shards[split]), plan.work):
        sync(folder)
    write_durably(plan.work / MANIFEST, manifest.model_dump_json(indent=1) + "\n")
    sync(plan.work)
