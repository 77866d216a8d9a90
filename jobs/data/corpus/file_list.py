"""The file list of a prepare: its source files, its tokenizer, and the fingerprint of what they make."""

import glob
import hashlib
import json
import os
import re
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from jobs.data.clean.language import load_identifier
from jobs.data.clean.overlap import EvaluationIndex, build_index
from jobs.data.dedup.file_order import SourcePath, in_order_of_release
from jobs.data.readers.data_use import require_open_files
from jobs.data.readers.source_stream import SourceStream
from jobs.data.terminology.text_steps import TextSteps, load_text_steps
from jobs.models.tokenizer import TextEncoder, load_encoder
from jobs.rank.context import Context
from launcher.artifacts.corpus_manifest import FORMAT, SourceFile
from launcher.artifacts.tokenizer_manifest import EXPANSION, read_expansion
from launcher.errors import LauncherError
from launcher.recipe.kinds.prepare import PrepareRecipe
from launcher.recipe.kinds.vocabulary import VocabularyRecipe
from launcher.recipe.sections.chat_sources import ChatSourceBase
from launcher.recipe.sections.terminology import TermSource
from launcher.recipe.sections.text_sources import Source

_RULES, _RULES_OF_ANY_LENGTH = 2, 3
"""Which documents stay, by the same settings; raised when that changes. 2: copies are those of one patient. 3, which
matters with `min_characters: 0` only: documents without a character are dropped."""

_SURROGATE = re.compile("[\ud800-\udfff]")
"""How Python shows bytes of a file name that are not UTF-8."""
_OTHER_COMPRESSION = (".7z", ".br", ".lz4", ".lzma", ".rar", ".z", ".zip")
_READ_ONCE = ("medline", "pmc")
"""Formats whose documents have an identity: reading a file twice, in whatever way, makes no second copy."""


@dataclass(frozen=True)
class FileList(ABC):
    """Source files, what decides how they are processed, and where the result goes."""

    recipe: PrepareRecipe | VocabularyRecipe
    sources: tuple[SourcePath, ...]
    """In the order of their documents."""
    encoder: TextEncoder
    """The tokenizer that the recipe names."""
    settings: str
    """Checksum of everything but the files that decides the result; see `settings_of`."""
    fingerprint: str
    """Checksum of that and of the files."""
    folder: Path
    """Where the result is published."""
    code: str
    """Version of this code. Not in the checksums: files that another version processed are reused."""

    @property
    def work(self) -> Path:
        """Where it is made; another file list under the same name works elsewhere."""
        return self.folder.with_name(f"{self.folder.name}.partial") / self.fingerprint[:16]

    def size(self, number: int) -> int:
        """Bytes of a source file."""
        return self.sources[number][0].stat().st_size

    @property
    def parts(self) -> Path:
        """Holds what is only needed until the result is whole."""
        return self.work / "parts"

    def record(self, number: int) -> Path:
        """Path of the record (`ProcessedFile`) of a source file."""
        return self.parts / f"{number:05d}.json"

    @abstractmethod
    def other_files(self, number: int) -> list[Path]:
        """What was made of a source file besides its record and its shards."""


@dataclass(frozen=True)
class CorpusFileList(FileList):
    """The file list of a corpus."""

    recipe: PrepareRecipe
    evaluation: EvaluationIndex | None
    """Evaluation sets that documents must not overlap with."""
    terminology: TextSteps | None = None
    """What is done with medical terms."""

    def keys(self, number: int) -> Path:
        """Path of the keys of its documents."""
        return self.parts / f"{number:05d}.npz"

    def signatures(self, number: int) -> Path:
        """Path of the MinHash signatures of its documents."""
        return self.parts / f"{number:05d}.signatures"

    def changes(self, number: int) -> Path:
        """Path of what was changed in its documents."""
        return self.parts / f"{number:05d}.changes"

    def other_files(self, number: int) -> list[Path]:
        """What was made of a source file besides its record and its shards."""
        signatures = [self.signatures(number)] if self.recipe.clean.near_duplicates else []
        return [self.keys(number), *signatures, *([self.changes(number)] if self.terminology else [])]


def corpus_file_list(context: Context) -> CorpusFileList:
    """List the source files of a corpus, and load what is needed to process them.

    Raises:
        LauncherError: source files or evaluation sets are missing, or the tokenizer cannot be used.
    """
    recipe = cast(PrepareRecipe, context.recipe)
    sources, encoder = open_sources(context, recipe)
    evaluation = load_evaluation(context, recipe)
    terminology = load_text_steps(context, "clean.terminology", recipe.clean.terminology)
    settings = settings_of(recipe, encoder, evaluation, terminology)
    folder, code = context.made_path("corpus", recipe.corpus), context.code_version
    fingerprint = fingerprint_of(settings, sources)
    return CorpusFileList(recipe, sources, encoder, settings, fingerprint, folder, code, evaluation, terminology)


def open_sources(
    context: Context, recipe: PrepareRecipe | VocabularyRecipe
) -> tuple[tuple[SourcePath, ...], TextEncoder]:
    """Find the source files of a recipe, and load the models that process them.

    Raises:
        LauncherError: files are missing, or the tokenizer cannot be used or was made of credentialed text.
    """
    if context.ranks.world_size > 1:
        raise LauncherError(f"resources: `{recipe.kind}` runs as one process; write `nodes: 1` and `gpus_per_node: 0`")
    sources = find_files(context, recipe.sources)
    if recipe.clean.languages:
        load_identifier()
    path = Path(context.model_path(recipe.tokenizer))
    is_learned = (path / EXPANSION).exists()
    if recipe.data_use == "open" and is_learned and read_expansion(path).data_use == "credentialed":
        raise LauncherError(
            f"tokenizer: `{recipe.tokenizer}` was made of credentialed text; write `data_use: credentialed`"
        )
    return sources, load_encoder(str(path), recipe.tokenizer)


def find_files(context: Context, sources: Sequence[Source]) -> tuple[SourcePath, ...]:
    """Find the files of all sources, sorted by name within each, those of NLM by their release.

    Raises:
        LauncherError: there are none, or one would be read twice in the same way, perhaps through a link.
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
    return in_order_of_release([(path, source) for _, path, source in found.values()])


def load_evaluation(context: Context, recipe: PrepareRecipe) -> EvaluationIndex | None:
    """Read the evaluation sets that the recipe names, each once."""
    wanted = recipe.clean.decontaminate
    if wanted is None:
        return None
    key = "clean.decontaminate.files"
    paths = [path for number, files in enumerate(wanted.files) for path in matching(context, f"{key}.{number}", files)]
    return build_index(dict.fromkeys(paths), wanted.ngram)


def _require_target(key: str, link: Path) -> None:
    try:
        link.stat()
    except PermissionError:
        raise LauncherError(
            f"{key}: `{link}` links to a file in a folder that is closed to you; ask its owner"
        ) from None
    except OSError:
        raise LauncherError(
            f"{key}: `{link}` links to a file that does not exist; restore it or remove the link"
        ) from None


def matching(context: Context, key: str, files: str) -> list[Path]:
    """Find the files that a pattern of the recipe matches, sorted by name.

    Raises:
        LauncherError: there are none, or one is a dangling link, has a name that is not UTF-8, may not be read, is
            compressed in a way that no reader knows, or was made of credentialed data and the recipe is open.
    """
    pattern = context.data_glob(files)
    found = [Path(path) for path in sorted(glob.glob(pattern, recursive=True))]
    for path in found:
        if path.is_symlink():
            _require_target(key, path)
        if _SURROGATE.search(str(path)):
            raise LauncherError(f"{key}: {str(path)!a} is not a name in UTF-8, which manifests need; rename it")
    paths = [path for path in found if path.is_file()]
    if not paths:
        raise LauncherError(
            f"{key}: `{files}` matches no file ({pattern}); correct it, put the files there, or set `roots.data` in "
            "the cluster profile"
        )
    # Now, not hours later when their turn comes.
    if closed := [path for path in paths if not os.access(path, os.R_OK, effective_ids=True)]:
        raise LauncherError(f"{key}: {_some(closed)}: permission denied; ask the owner, or narrow the pattern")
    if packed := [path for path in paths if path.suffix.lower() in _OTHER_COMPRESSION]:
        raise LauncherError(f"{key}: {_some(packed)}: unknown compression; unpack it, or use gzip, zstd, xz or bzip2")
    require_open_files(context.recipe.data_use, key, paths)
    return paths


def _some(paths: Sequence[Path]) -> str:
    return f"`{paths[0]}`" + (f" and {len(paths) - 1:,} more" if paths[1:] else "")


def settings_of(
    recipe: PrepareRecipe, encoder: TextEncoder, evaluation: EvaluationIndex | None, terminology: TextSteps | None
) -> str:
    """Return a checksum of everything but the files that decides the bytes of the shards, and who may see them."""
    return digest(
        {
            "format": FORMAT,
            "rules": _RULES if recipe.clean.min_characters else _RULES_OF_ANY_LENGTH,
            "data_use": recipe.data_use,
            "tokenizer": encoder.record.model_dump(exclude={"path"}),
            "validation": recipe.validation,
            "clean": cleaning_of(recipe),
            "evaluation": [file.sha256 for file in evaluation.files] if evaluation else [],
        }
        | ({"terminology": terminology.identity} if terminology else {})
    )


def cleaning_of(recipe: PrepareRecipe | VocabularyRecipe) -> dict[str, Any]:
    """Return the settings of `clean`; without those that corpora had no key for when their checksums were made."""
    clean = recipe.clean.model_dump(mode="json")
    return {key: value for key, value in clean.items() if (key, value) != ("terminology", None)}


def fingerprint_of(settings: str, sources: Sequence[SourcePath]) -> str:
    """Return a checksum of everything that decides a result.

    Of source files it covers name, size, reader and licence. Their content would take hours to read, only to learn
    that there is nothing to do.
    """
    found = [(path.name, path.stat().st_size, options_of(source), source.license) for path, source in sources]
    return digest({"settings": settings, "files": found})


def digest(facts: dict[str, Any]) -> str:
    """Return a checksum of what JSON can express."""
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()


def options_of(source: Source | ChatSourceBase | TermSource) -> dict[str, Any]:
    """Return the settings that decide how a source is read."""
    return source.model_dump(mode="json", exclude={"files", "license"})


def describe_file(stream: SourceStream, source: Source | ChatSourceBase) -> SourceFile:
    """Describe a file that has been read to its end."""
    return SourceFile(
        path=str(stream.path),
        format=source.format,
        options=options_of(source),
        license=source.license,
        size=stream.size,
        sha256=stream.sha256,
        records=stream.count,
    )
