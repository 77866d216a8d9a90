"""Corpora whose manifest, index and tokens hold anything: each command goes on or says what is wrong."""

import json
import shutil
import tempfile
from pathlib import Path
from typing import Any

from hypothesis import strategies as st

from jobs.data.sampling.corpus_reader import open_corpus
from launcher.errors import LauncherError
from tests.support.command_line import launcher_with_any_code
from tests.support.corpora import make_corpus
from tests.support.fuzz import damaged_bytes, damaged_json, files_beside, fuzzed

COMMANDS = (
    ("show", "CORPUS"),
    ("show", "CORPUS", "--json", "--sequence-length", "64"),
    ("verify", "CORPUS", "--quick"),
    ("diff", "CORPUS", "OTHER"),
    ("diff", "OTHER", "CORPUS", "--json"),
    ("sample", "CORPUS"),
    ("sample", "CORPUS", "--json", "--split", "validation"),
)
CHECKS = (("verify", "CORPUS"), ("verify", "CORPUS", "--json"))
"""These start processes."""
DOCUMENTS = [[5, 6, 7, 2], [8, 2], [9, 10, 2]]


def sound_corpus(folder: Path) -> None:
    make_corpus(folder, [DOCUMENTS, DOCUMENTS[:2]], validation=DOCUMENTS[:1])


def files_of_a_corpus() -> dict[str, bytes]:
    with tempfile.TemporaryDirectory() as folder:
        corpus = Path(folder) / "corpus"
        sound_corpus(corpus)
        return {path.relative_to(corpus).as_posix(): path.read_bytes() for path in corpus.rglob("*") if path.is_file()}


def damages() -> st.SearchStrategy[tuple[str, bytes | None]]:
    """The name of a file and what it holds; None: it is a folder."""
    files = files_of_a_corpus()
    manifest = st.tuples(st.just("manifest.json"), damaged_json(json.loads(files["manifest.json"])))
    others = [st.tuples(st.just(name), damaged_bytes(content)) for name, content in files.items()]
    return st.one_of(manifest, manifest, *others, st.tuples(st.sampled_from([*files]), st.none()))


@fuzzed(st.tuples(st.lists(damages(), min_size=1, max_size=2), st.sampled_from(COMMANDS)), gate=12)
def test_a_damaged_corpus_is_shown_or_explained(folder: Path, damage: Any) -> None:
    look_at_damaged(folder, *damage)


@fuzzed(st.tuples(st.lists(damages(), min_size=1, max_size=2), st.sampled_from(CHECKS)), gate=3)
def test_a_damaged_corpus_is_verified_or_explained(folder: Path, damage: Any) -> None:
    look_at_damaged(folder, *damage)


def look_at_damaged(folder: Path, changes: list[tuple[str, bytes | None]], command: tuple[str, ...]) -> None:
    base = folder / "base"
    shutil.rmtree(base, ignore_errors=True)
    for name in ("corpus", "other"):
        sound_corpus(base / name)
    for name, content in changes:
        path = base / "corpus" / name
        shutil.rmtree(path, ignore_errors=True)
        path.unlink(missing_ok=True)
        path.mkdir() if content is None else path.write_bytes(content)
    before = set(files_beside(base, base / "none"))

    places = {"CORPUS": str(base / "corpus"), "OTHER": str(base / "other")}
    code = launcher_with_any_code("corpus", *(places.get(word, word) for word in command))

    assert code in (0, 1, 2)
    try:
        reader = open_corpus(base / "corpus")
        reader.check_sizes()
    except (LauncherError, OSError) as error:
        assert str(error)
    assert set(files_beside(base, base / "none")) == before
