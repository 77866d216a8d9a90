"""A split in which the held-out conversations have the same share of each value of a key."""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

from jobs.data.chat.formats import Message, conversation_of
from jobs.data.chat.records import Record, read_records
from jobs.data.corpus.shard_writer import text_hash
from jobs.data.readers.source_stream import SourceStream
from launcher.artifacts.corpus_manifest import Split
from launcher.recipe.sections.chat_sources import ChatSource

_BATCH = 256
"""Records between two yields."""


@dataclass(frozen=True)
class Strata:
    """Which conversations of all sources are held out. Those with the same first question are one group."""

    key: str
    """Of the records."""
    of: Mapping[int, str]
    """The value of each group, by the hash of its question."""
    held_out: frozenset[int]

    def split(self, question: int) -> Split:
        """Return the split of the group with this hash."""
        return "validation" if question in self.held_out else "train"


def question_hash(messages: Sequence[Message]) -> int:
    """Return the hash of a conversation's first question."""
    return text_hash(next(message["content"] for message in messages if message["role"] == "user"))


def stratum_of(record: Record, key: str) -> str:
    """Return the value that a record has under a key.

    Raises:
        ValueError: it has none, or not a text, a number or a truth value; the message does not quote it.
    """
    value = record.get(key)
    if not isinstance(value, str | int | float):
        raise ValueError(f"has no text or number as `{key}`, by which `data.stratify_by` divides")
    return str(value)


def add_groups(
    groups: dict[int, str], paths: Iterable[Path], source: ChatSource, excluded: frozenset[str], key: str
) -> Iterator[None]:
    """Read the files of a source and note the value of each question that has none yet; yields often.

    Records that cannot be read are left out: whoever makes examples of them counts them. A question that occurs with
    several values, in one source or in several, is counted with its first one.

    Args:
        groups: Value of each group by the hash of its question; the source's are added.
        paths: Files.
        source: Their section.
        excluded: Records that are left out.
        key: Whose values are to have equal shares.
    """
    for path in paths:
        for count, (_, name, record) in enumerate(read_records(SourceStream(path))):
            if count % _BATCH == 0:
                yield
            try:
                conversation, value = conversation_of(record, source), stratum_of(record, key)
            except ValueError:
                continue
            if conversation and (str(record.get("pubid")) if name is None else name) not in excluded:
                groups.setdefault(question_hash(conversation.messages), value)


def choose_held_out(groups: Mapping[int, str], share: float) -> frozenset[int]:
    """Choose round(share x groups) groups, of each value its share or the whole number above or below it.

    The places that whole numbers leave go to the values with the largest remainders. Within a value, the groups with
    the smallest hashes are held out, so the choice depends neither on files nor on their order.

    Args:
        groups: Value of each group, by its hash.
        share: Of the groups that is held out.
    """
    exact, members = Fraction(str(share)), defaultdict[str, list[int]](list)
    for group, value in groups.items():
        members[value].append(group)
    quotas = {value: exact * len(its) for value, its in members.items()}
    counts = {value: int(quota) for value, quota in quotas.items()}
    left = round(exact * len(groups)) - sum(counts.values())
    for value in sorted(quotas, key=lambda value: (counts[value] - quotas[value], value))[:left]:
        counts[value] += 1
    return frozenset(group for value, its in members.items() for group in sorted(its)[: counts[value]])
