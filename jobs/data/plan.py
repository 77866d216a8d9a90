"""What a prepare is going to do: source files, tokenizer, and the fingerprint of the result."""

import glob
import hashlib
import json
import os
import re
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jobs.data.clean.language import load_identifier
from jobs.data.clean.overlap import EvaluationIndex, build_index
from jobs.data.tokenize import TextEncoder, load_encoder
from jobs.runtime.context import Context
from launcher.corpus import FORMAT
from launcher.errors import LauncherError
from launcher.expansion import EXPANSION, read_expansion
from launcher.recipe.chat import ChatSource
from launcher.recipe.prepare import PrepareRecipe
from launcher.recipe.sources import Source
from launcher.recipe.vocabulary import VocabularyRecipe

SourcePath = tuple[Path, Source]
_RULES = 2
"""Which documents stay, by the same settings; raised when that changes. 2: copies are those of one patient."""

_SURROGATE = re.compile("[\ud800-\udfff]")
"""What Python makes of bytes in a name that are not UTF-8."""
_OTHER_COMPRESSION = (".7z", ".bz2", ".lz4", ".rar", ".xz", ".zip")
_READ_ONCE = ("medline", "pmc")
"""Formats whose documents have an identity: however a file is read again, its documents supersede those read before."""


@dataclass(frozen=True)
class SourcePlan(ABC):
    """What is made of source files, and where."""

    recipe: PrepareRecipe | VocabularyRecipe
    files: tuple[SourcePath, ...]
    """Source files, in the order of their documents."""
    encoder: TextEncoder
    """The tokenizer that the recipe names."""
    settings: str
    """Sum of what decides the result besides the files; see `settings_of`."""
    fingerprint: str
    """Sum of that and the files."""
    folder: Path
    """Where the result is published."""
    code: str
    """Version of this code. It is no part of the sums: parts that other code made are taken over, and told of."""

    @property
    def work(self) -> Path:
        """Where it is made; plans of others under the same name work elsewhere."""
        return self.folder.with_name(f"{self.folder.name}.partial") / self.fingerprint[:16]

    def size(self, number: int) -> int:
        """Bytes of a source file."""
        return self.files[number][0].stat().st_size

    @property
    def parts(self) -> Path:
        """Where everything lies that is only needed until the result is whole."""
        return self.work / "parts"

    def record(self, number: int) -> Path:
        """Where the record of a finished source file lies."""
        return self.parts / f"{number:05d}.json"

    @abstractmethod
    def beside(self, number: int) -> list[Path]:
        """Name what was made of a source file besides its record and its shards."""


@dataclass(frozen=True)
class Plan(SourcePlan):
    """Everything that decides the bytes of a corpus."""

    recipe: PrepareRecipe
    evaluation: EvaluationIndex | None
    """Of the evaluation sets that documents must not overlap with."""

    def keys(self, number: int) -> Path:
        """Where the keys of its documents lie."""
        return self.parts / f"{number:05d}.npz"

    def signatures(self, number: int) -> Path:
        """Where the MinHash signatures of its documents lie."""
        return self.parts / f"{number:05d}.signatures"

    def beside(self, number: int) -> list[Path]:
        """Name what was made of a source file besides its record and its shards."""
        return [self.keys(number), *([self.signatures(number)] if self.recipe.clean.near_duplicates else [])]


def make_plan(context: Context) -> Plan:
    """Work out what the recipe asks for.

    Raises:
        LauncherError: source files or evaluation sets are missing, or the tokenizer cannot be used.
    """
    recipe = context.recipe
    assert isinstance(recipe, PrepareRecipe), recipe.kind
    if context.ranks.world_size > 1:
        raise LauncherError("resources: `prepare` is one task; write `nodes: 1` and `gpus_per_node: 0`")
    files = find_files(context, recipe.sources)
    encoder = load_tokenizer(context, recipe)
    if recipe.clean.languages:
        load_identifier()
    evaluation = load_evaluation(context, recipe)
    settings = settings_of(recipe, encoder, evaluation)
    folder = context.corpus_path(recipe.corpus)
    fingerprint = fingerprint_of(settings, files)
    return Plan(recipe, files, encoder, settings, fingerprint, folder, context.code_version, evaluation)


def load_tokenizer(context: Context, recipe: PrepareRecipe | VocabularyRecipe) -> TextEncoder:
    """Load the tokenizer that a recipe names.

    Raises:
        LauncherError: it cannot be used, or was made of text that the recipe may not use.
    """
    path = Path(context.model_path(recipe.tokenizer))
    is_learned = (path / EXPANSION).exists()
    if recipe.data_use == "open" and is_learned and read_expansion(path).data_use == "credentialed":
        raise LauncherError(
            f"tokenizer: `{recipe.tokenizer}` was made of credentialed text; write `data_use: credentialed`"
        )
    return load_encoder(str(path), recipe.tokenizer)


def find_files(context: Context, sources: Sequence[Source]) -> tuple[SourcePath, ...]:
    """Find the files of all sources, sorted by name within each.

    Raises:
        LauncherError: there are none, or one would be read twice in the same way, perhaps by way of a link.
    """
    found: dict[tuple[int, int, str], tuple[int, Path, Source]] = {}
    for number, source in enumerate(sources):
        reading = source.format if source.format in _READ_ONCE else json.dumps(options_of(source))
        for path in matching(context, f"sources.{number}.files", source.files):
            file = path.stat()  # tells links to the same file, too
            first, known, _ = found.setdefault((file.st_dev, file.st_ino, reading), (number, path, source))
            if (first, known) != (number, path):
                what = f"a file of sources.{first} as well" if path == known else f"the same file as `{known}`"
                raise LauncherError(f"sources.{number}.files: `{path}` is {what}; make one of the patterns narrower")
    return tuple((path, source) for _, path, source in found.values())


def load_evaluation(context: Context, recipe: PrepareRecipe) -> EvaluationIndex | None:
    """Read the evaluation sets that the recipe names, each once; None if it names none."""
    wanted = recipe.clean.decontaminate
    if wanted is None:
        return None
    key = "clean.decontaminate.files"
    paths = [path for number, files in enumerate(wanted.files) for path in matching(context, f"{key}.{number}", files)]
    return build_index(dict.fromkeys(paths), wanted.ngram)


def matching(context: Context, key: str, files: str) -> list[Path]:
    """Find the files that a pattern of the recipe means, sorted by name.

    Raises:
        LauncherError: there are none, or one is a link to nothing, not named in UTF-8, not for this user to read, or
            compressed in a way that no reader knows.
    """
    pattern = context.data_glob(files)
    found = [Path(path) for path in sorted(glob.glob(pattern, recursive=True))]
    for path in found:
        if path.is_symlink() and not path.exists():
            raise LauncherError(f"{key}: `{path}` is a link to nothing; put its file there, or remove the link")
        if _SURROGATE.search(str(path)):
            raise LauncherError(f"{key}: {str(path)!a} is no name in UTF-8, as manifests need it; rename it")
    paths = [path for path in found if path.is_file()]
    if not paths:
        raise LauncherError(
            f"{key}: `{files}` matches no file ({pattern}); correct it, put the files there, or set `roots.data` in "
            "the cluster profile"
        )
    # Not when their turn comes, hours later, and in one task after the other.
    if closed := [path for path in paths if not os.access(path, os.R_OK, effective_ids=True)]:
        raise LauncherError(f"{key}: {_some(closed)}: not for you to read; ask the owner, or narrow the pattern")
    if packed := [path for path in paths if path.suffix in _OTHER_COMPRESSION]:
        what = "not read as it is compressed; unpack it, or compress it with gzip or zstd"
        raise LauncherError(f"{key}: {_some(packed)}: {what}")
    return paths


def _some(paths: Sequence[Path]) -> str:
    return f"`{paths[0]}`" + (f" and {len(paths) - 1:,} more" if paths[1:] else "")


def settings_of(recipe: PrepareRecipe, encoder: TextEncoder, evaluation: EvaluationIndex | None) -> str:
    """Sum up everything but the files that decides the bytes of the shards, and who may see them."""
    return digest(
        {
            "format": FORMAT,
            "rules": _RULES,
            "data_use": recipe.data_use,
            "tokenizer": encoder.record.model_dump(exclude={"path"}),
            "validation": recipe.validation,
            "clean": recipe.clean.model_dump(mode="json"),
            "evaluation": [file.sha256 for file in evaluation.files] if evaluation else [],
        }
    )


def fingerprint_of(settings: str, files: Sequence[SourcePath]) -> str:
    """Sum up everything that decides a result.

    Of source files that is name, size, reader and licence: reading terabytes for their checksums, to learn that
    there is nothing to do, is not worth it.
    """
    found = [(path.name, path.stat().st_size, options_of(source), source.license) for path, source in files]
    return digest({"settings": settings, "files": found})


def digest(facts: dict[str, Any]) -> str:
    """Sum up what JSON can express."""
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()


def options_of(source: Source | ChatSource) -> dict[str, Any]:
    """Say how a source is read."""
    return source.model_dump(mode="json", exclude={"files", "license"})
