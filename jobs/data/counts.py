"""What became of the records: for the manifest, for a line in a log, and to refuse what is too bad."""

import math
from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np

from jobs.data.decide import REASONS, Judged
from jobs.data.parts import Part
from jobs.data.plan import SourcePlan
from launcher.corpus import SPLITS, Shard, Split, Tally
from launcher.errors import LauncherError

_SHOWN = 10


def check_quality(plan: SourcePlan, done: Mapping[int, Part], total: Tally) -> None:
    """Refuse sources with more unreadable records than the recipe forgives, as soon as that is clear.

    The share is that of the whole corpus, so the verdict does not depend on how files are spread over
    tasks. While files are missing, they count with as many records as their size says, at the rate of the
    finished files of their source; a source without a finished file could hold any number.

    Args:
        plan: Of the corpus or tokenizer.
        done: Finished parts by the number of their file.
        total: Sum of their tallies; the caller keeps it, since this is asked after every file.

    Raises:
        LauncherError: naming the first unreadable records.
    """
    bad, records, allowed = total.bad_records, total.records, plan.recipe.max_bad_fraction
    # A quotient is the number that the recipe writes, where they are equal; a product is not: 0.29 * 100 < 29.
    if bad / max(1, records) <= allowed or bad / _expected_records(plan, done) <= allowed:
        return
    first = first_unreadable(done)
    missing = len(plan.files) - len(done)
    to_come = f" ({missing:,} file{'s are' if missing > 1 else ' is'} still to come)" if missing else ""
    raise LauncherError(
        f"{bad:,} of {records:,} records cannot be read{to_come}, more than `max_bad_fraction: {allowed:g}` forgives. "
        f"The first one: {first[0]}; mend the files, or raise it, and submit again: what was made of the others is kept"
        + "".join(f"\n  {entry}" for entry in first[1:])
    )


def first_unreadable(done: Mapping[int, Part]) -> list[str]:
    """Name some unreadable records of finished parts."""
    return [entry for number in sorted(done) for entry in done[number].first_bad][:_SHOWN]


def _expected_records(plan: SourcePlan, done: Mapping[int, Part]) -> float:
    records, read, unread = Counter[str](), Counter[str](), Counter[str]()
    for number, (_, source) in enumerate(plan.files):
        if number in done:
            records[source.files] += done[number].tally.records
            read[source.files] += done[number].source.size
        else:
            unread[source.files] += plan.size(number)
    missing = [records[source] * size / read[source] if read[source] else math.inf for source, size in unread.items()]
    return records.total() + sum(missing)


def count_documents(parts: Sequence[Part], judged: Sequence[Judged]) -> Tally:
    """Sum up the parts and what was dropped when all were there; tokens are left to `count_tokens`."""
    read = sum((part.tally for part in parts), start=Tally())
    dropped, licenses, documents = Counter(read.dropped), Counter[str](), Counter[Split]()
    for part in judged:
        verdicts = np.bincount(part.verdicts, minlength=1 + max(REASONS)).tolist()
        dropped.update({name: verdicts[reason] for reason, name in REASONS.items()})
        documents.update({split: int(part.stays_in(split).sum()) for split in SPLITS})
        by_number = np.bincount(part.keys.licenses[part.stays], minlength=len(part.keys.license_names)).tolist()
        licenses.update(dict(zip(part.keys.license_names.tolist(), by_number, strict=True)))
    return Tally(
        records=read.records,
        bad_records=read.bad_records,
        dropped={reason: count for reason, count in dropped.items() if count},
        documents=dict(documents),
        licenses={name: licenses[name] for name in sorted(licenses) if licenses[name]},
        phi=read.phi,
    )


def count_tokens(counts: Tally, shards: Mapping[Split, Sequence[Shard]]) -> Tally:
    """Complete the counts when the shards are there."""
    tokens = {split: sum(shard.tokens for shard in shards[split]) for split in SPLITS}
    return counts.model_copy(update={"tokens": tokens})


def summary(tally: Tally) -> str:
    """Say in a line what became of the source text."""
    kept = [f"{split} {tally.documents[split]:,} documents, {tally.tokens[split]:,} tokens" for split in SPLITS]
    dropped = [f"dropped {count:,} ({reason})" for reason, count in tally.dropped.items()]
    phi = [f"{count:,} matches of {pattern}" for pattern, count in tally.phi.items() if count]
    return "; ".join([*kept, *dropped, *phi, f"{tally.bad_records:,} of {tally.records:,} records unreadable"])
