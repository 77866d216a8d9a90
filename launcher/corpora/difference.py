"""What differs between two corpora, from their manifests."""

from collections import Counter, defaultdict, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias, TypeVar

from launcher.artifacts.corpus_manifest import SPLITS, EvaluationSet, Manifest, Shard, SourceFile
from launcher.artifacts.corpus_settings import flat

_RESULTS = {"documents", "tokens"}
"""Of a source file: what follows from other differences."""
File = TypeVar("File", SourceFile, EvaluationSet)
Topic: TypeAlias = Literal["sources", "settings", "tokenizer", "counts", "shards", "origin"]


@dataclass(frozen=True)
class Difference:
    """One fact that two corpora do not share."""

    topic: Topic
    what: str
    """Path of a source, key of a setting, name of a count."""
    left: Any
    """In the first corpus; None if it has no such thing."""
    right: Any

    @property
    def matters(self) -> bool:
        """Whether it makes the corpora different: their names, paths and the code that made them do not."""
        return self.topic != "origin"


def compare(left: Manifest, right: Manifest) -> list[Difference]:
    """Find all differences, by topic."""
    return [
        *_compare_sources(left.sources, right.sources),
        *_differing("settings", _settings(left), _settings(right)),
        *_compare_evaluation_sets(left.decontamination, right.decontamination),
        *_differing("tokenizer", _tokenizer(left), _tokenizer(right)),
        *_differing("counts", flat(left.counts.model_dump()), flat(right.counts.model_dump()), absent=0),
        *_compare_shards(left, right),
        *_differing("origin", _origin(left), _origin(right)),
    ]


def _settings(manifest: Manifest) -> dict[str, Any]:
    return flat(
        manifest.model_dump(mode="json", include={"format", "data_use", "dtype", "split", "clean", "terminology"})
    )


def _tokenizer(manifest: Manifest) -> dict[str, Any]:
    return manifest.tokenizer.model_dump(mode="json", exclude={"path"})


def _origin(manifest: Manifest) -> dict[str, Any]:
    return {"corpus": manifest.corpus, "code": manifest.code, "tokenizer": manifest.tokenizer.path}


def _differing(
    topic: Topic, left: Mapping[str, Any], right: Mapping[str, Any], absent: int | None = None
) -> Iterator[Difference]:
    for key in dict.fromkeys((*left, *right)):
        pair = left.get(key, absent), right.get(key, absent)
        if pair[0] != pair[1]:
            yield Difference(topic, key, *pair)


def _compare_sources(left: Sequence[SourceFile], right: Sequence[SourceFile]) -> Iterator[Difference]:
    """Pair files that are the same, that only lie somewhere else, that changed; what is left was added or removed."""
    _, left, right = _pair(left, right, lambda file: file.model_dump_json(exclude=_RESULTS))
    moved, left, right = _pair(left, right, lambda file: file.model_dump_json(exclude={"path", *_RESULTS}))
    changed, removed, added = _pair(left, right, lambda file: file.path)
    for one, other in changed:
        yield Difference("sources", one.path, _facts(one), _facts(other))
    for file in removed:
        yield Difference("sources", file.path, _facts(file), None)
    for file in added:
        yield Difference("sources", file.path, None, _facts(file))
    for one, other in moved:
        yield Difference("origin", "source", one.path, other.path)


def _compare_evaluation_sets(left: Sequence[EvaluationSet], right: Sequence[EvaluationSet]) -> Iterator[Difference]:
    """Pair sets of the same content, wherever they lie, then those that changed."""
    equal, left, right = _pair(left, right, lambda its: its.sha256)
    changed, removed, added = _pair(left, right, lambda its: its.path)
    for one, other in changed:
        yield Difference("settings", f"evaluation set {one.path}", one.sha256, other.sha256)
    for its in removed:
        yield Difference("settings", f"evaluation set {its.path}", its.sha256, None)
    for its in added:
        yield Difference("settings", f"evaluation set {its.path}", None, its.sha256)
    for one, other in equal:
        if one.path != other.path:
            yield Difference("origin", "evaluation set", one.path, other.path)


def _pair(
    left: Sequence[File], right: Sequence[File], key: Callable[[File], str]
) -> tuple[list[tuple[File, File]], list[File], list[File]]:
    """Pair files of equal keys, in order; also return those of either side that have no partner."""
    waiting: dict[str, deque[File]] = defaultdict(deque)
    for file in right:
        waiting[key(file)].append(file)
    pairs, alone = [], []
    for file in left:
        if partners := waiting[key(file)]:
            pairs.append((file, partners.popleft()))
        else:
            alone.append(file)
    return pairs, alone, [file for files in waiting.values() for file in files]


def _facts(file: SourceFile) -> dict[str, Any]:
    return file.model_dump(mode="json", exclude={"path", *_RESULTS})


def _compare_shards(left: Manifest, right: Manifest) -> Iterator[Difference]:
    for split in SPLITS:
        ours, theirs = _checksums(left.shards[split]), _checksums(right.shards[split])
        if ours != theirs:
            in_both = (Counter(ours) & Counter(theirs)).total()
            yield Difference("shards", split, *({"shards": len(some), "in_both": in_both} for some in (ours, theirs)))


def _checksums(shards: Sequence[Shard]) -> list[tuple[str, str]]:
    return [(shard.sha256, shard.index_sha256) for shard in shards]
