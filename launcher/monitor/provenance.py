"""What a run read: the inputs that its recipe names, and what their manifests say of them."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from launcher.recipe import KINDS
from launcher.run.contents import Content
from launcher.run.identity import RunIdentity
from launcher.run.paths import RunDir
from launcher.run.record import RunRecord
from launcher.run.typed import read_object

_LICENSES = 6
"""Licences that are listed."""


@dataclass(frozen=True)
class InputOfRun:
    """One thing that a run read."""

    key: str
    """In the recipe."""
    type: str
    name: str
    facts: tuple[str, ...]
    """What is known of it: never text of data."""


def read_inputs(record: RunRecord, recipe: Mapping[str, Any], run: RunDir | None = None) -> tuple[InputOfRun, ...]:
    """Read what is known of a run's inputs; nothing of a recipe that this version does not understand.

    Args:
        record: Says where names lead.
        recipe: As it was resolved.
        run: Has the checksums that were noted when it started.
    """
    kind = KINDS.get(record.kind)
    try:
        inputs = [*kind.model_validate(recipe).inputs()] if kind else []
    except ValidationError:
        return ()
    noted = RunIdentity.read(run.identity) if run else None
    contents = dict(noted.inputs) if noted else {}
    found = []
    for one in inputs:
        facts = [*_facts_of_manifest(record, one.type, one.name), *_facts_of_content(contents.get(one.key))]
        found.append(InputOfRun(one.key, one.type, one.name, tuple(facts)))
    return tuple(found)


def _facts_of_content(content: Content | None) -> Iterator[str]:
    if content is None:
        return
    if content.known:
        yield f"fingerprint {content.known.split()[-1][:16]} when it was read"
    elif content.files:
        yield f"{len(content.files)} files, {sum(stamp.size for stamp in content.files):,} bytes when it was read"


def _facts_of_manifest(record: RunRecord, kind: str, name: str) -> Iterator[str]:
    if kind not in ("corpus", "model", "adapter", "tokenizer"):
        return
    try:
        folder = record.locations.corpus(name) if kind == "corpus" else Path(record.locations.model(name))
        manifest = read_object(folder / "manifest.json")
        yield from _facts_of_corpus(manifest) if kind == "corpus" else _facts_of_made(manifest)
    except (OSError, ValueError, LookupError, TypeError, AttributeError):
        return  # no manifest, or one of another program


def _facts_of_corpus(manifest: Mapping[str, Any]) -> Iterator[str]:
    counts = manifest["counts"]
    for split in ("train", "validation"):
        yield f"{split}: {counts['documents'][split]:,} documents, {counts['tokens'][split]:,} tokens"
    yield f"fingerprint {manifest['fingerprint'][:16]}, now"
    licenses = sorted(counts.get("licenses", {}).items(), key=lambda pair: -pair[1])
    if licenses:
        yield "licences: " + ", ".join(f"{name} ({count:,})" for name, count in licenses[:_LICENSES])


def _facts_of_made(manifest: Mapping[str, Any]) -> Iterator[str]:
    for key in ("run", "base_model", "steps", "corpora", "data_use"):
        if value := manifest.get(key):
            yield f"{key}: {', '.join(map(str, value)) if isinstance(value, list) else value}"
