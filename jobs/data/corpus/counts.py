"""What became of the records: for the manifest and the log, and to refuse sources with too many unreadable ones."""

import math
from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np

from jobs.data.corpus.file_list import FileList
from jobs.data.corpus.source_file import ProcessedFile
from jobs.data.dedup.decide import REASONS, DecidedFile
from jobs.data.readers.bad_records import some_of_each
from launcher.artifacts.corpus_manifest import SPLITS, TERMINOLOGY_COUNTS, Shard, Split, Tally
from launcher.errors import LauncherError


def check_quality(files: FileList, done: Mapping[int, ProcessedFile], total: Tally) -> None:
    """Refuse sources with more unreadable records than the recipe allows, as soon as that is clear.

    The fraction is that of the whole corpus, so it does not matter which array element reads which file. Records of
    files that are still to come are estimated from their size and the finished files of the same source; a source
    without a finished file could hold any number.

    Args:
        files: The file list.
        done: Finished files by number.
        total: Sum of their tallies.

    Raises:
        LauncherError: names the first unreadable records.
    """
    bad, records, allowed = total.bad_records, total.records, files.recipe.max_bad_fraction
    # A quotient is the number that the recipe writes, where they are equal; a product is not: 0.29 * 100 < 29.
    if bad / max(1, records) <= allowed or bad / _expected_records(files, done) <= allowed:
        return
    first = first_unreadable(done)
    missing = len(files.sources) - len(done)
    to_come = f" ({missing:,} file{'s are' if missing > 1 else ' is'} still to come)" if missing else ""
    raise LauncherError(
        f"{bad:,} of {records:,} records cannot be read{to_come}, more than `max_bad_fraction: {allowed:g}` allows. "
        f"The first one: {first[0]}; correct the files or raise the limit, and submit again; finished files are kept"
        + "".join(f"\n  {entry}" for entry in first[1:])
        + "".join(f"\n  in all {count:,}: {reason}" for reason, count in total.bad_reasons.items())
    )


def first_unreadable(done: Mapping[int, ProcessedFile]) -> list[str]:
    """Name the first unreadable records of finished files, some for each reason."""
    return some_of_each(entry for number in sorted(done) for entry in done[number].first_bad)


def _expected_records(files: FileList, done: Mapping[int, ProcessedFile]) -> float:
    records, read, unread = Counter[str](), Counter[str](), Counter[str]()
    for number, (_, source) in enumerate(files.sources):
        if number in done:
            records[source.files] += done[number].tally.records
            read[source.files] += done[number].source.size
        else:
            unread[source.files] += files.size(number)
    missing = [records[source] * size / read[source] if read[source] else math.inf for source, size in unread.items()]
    return records.total() + sum(missing)


def count_documents(processed: Sequence[ProcessedFile], decided: Sequence[DecidedFile]) -> Tally:
    """Sum up all files, and what was dropped once all were there; `count_tokens` adds the tokens."""
    read = sum((one.tally for one in processed), start=Tally())
    dropped, licenses, documents = Counter(read.dropped), Counter[str](), Counter[Split]()
    for one in decided:
        decisions = np.bincount(one.decisions, minlength=1 + max(REASONS)).tolist()
        dropped.update({name: decisions[reason] for reason, name in REASONS.items()})
        documents.update({split: int(one.stays_in(split).sum()) for split in SPLITS})
        by_number = np.bincount(one.keys.licenses[one.stays], minlength=len(one.keys.license_names)).tolist()
        licenses.update(dict(zip(one.keys.license_names.tolist(), by_number, strict=True)))
    return Tally(
        records=read.records,
        bad_records=read.bad_records,
        bad_reasons=read.bad_reasons,
        dropped={reason: count for reason, count in dropped.items() if count},
        documents=dict(documents),
        licenses={name: licenses[name] for name in sorted(licenses) if licenses[name]},
        phi=read.phi,
        terminology=read.terminology,
    )


def count_tokens(counts: Tally, shards: Mapping[Split, Sequence[Shard]]) -> Tally:
    """Add the tokens of the finished shards."""
    tokens = {split: sum(shard.tokens for shard in shards[split]) for split in SPLITS}
    return counts.model_copy(update={"tokens": tokens})


def summary(tally: Tally) -> str:
    """Say in one line what became of the source text."""
    kept = [f"{split} {tally.documents[split]:,} documents, {tally.tokens[split]:,} tokens" for split in SPLITS]
    dropped = [f"dropped {count:,} ({reason})" for reason, count in tally.dropped.items()]
    phi = [f"{count:,} matches of {pattern}" for pattern, count in tally.phi.items() if count]
    terms = [f"{count:,} {TERMINOLOGY_COUNTS[what]}" for what, count in tally.terminology.items()]
    return "; ".join([*kept, *dropped, *phi, *terms, f"{tally.bad_records:,} of {tally.records:,} records unreadable"])
