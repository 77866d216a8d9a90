"""kind: prepare, and what already has the name of the corpus."""

import os
from contextlib import contextmanager

import pytest

from jobs.data.sampling.corpus_reader import open_corpus
from jobs.kinds.prepare import main
from jobs.rank.stop_flag import STOP
from launcher.artifacts.corpus_manifest import MANIFEST
from launcher.errors import LauncherError
from tests.support.prepare_runs import (
    abstracts,
    files_of,
    make_context,
    make_tokenizer,
    prepare,
    write_pile,
)

pytestmark = pytest.mark.slow


def test_the_name_of_a_corpus_is_on_disk_before_its_parts_are_removed(tmp_path, monkeypatch):
    write_pile(tmp_path / "a.jsonl", abstracts()[:20])
    (tmp_path / "corpora").mkdir()
    root, seen = (tmp_path / "corpora").stat().st_ino, []
    monkeypatch.setattr(
        "jobs.rank.atomic_files.os.fsync",
        lambda handle: seen.append(os.listdir(tmp_path / "corpora")) if os.fstat(handle).st_ino == root else None,
    )

    prepare(tmp_path)

    assert [sorted(names) for names in seen] == [["corpus", "corpus.partial"]]


def test_a_published_corpus_is_not_made_again(tmp_path):
    write_pile(tmp_path / "a.jsonl", abstracts()[:20])
    folder = prepare(tmp_path).folder
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}

    prepare(tmp_path, description="other words", max_bad_fraction=0.5)

    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*")} == before


def test_files_that_were_written_after_the_corpus_are_named_and_others_are_not(tmp_path, capsys):
    path = write_pile(tmp_path / "a.jsonl", ["first text"])
    prepare(tmp_path, validation=0)
    capsys.readouterr()

    prepare(tmp_path, validation=0)
    unchanged = capsys.readouterr().out
    write_pile(path, ["other text"])
    made = (tmp_path / "corpora" / "corpus" / MANIFEST).stat().st_mtime_ns
    os.utime(path, ns=(made + 1, made + 1))
    prepare(tmp_path, validation=0)

    assert "files of the same names and sizes" in unchanged
    assert "warning" not in unchanged
    assert f"warning: modified after the corpus was made, and not compared: {path};" in capsys.readouterr().out


def test_another_corpus_of_the_same_name_is_not_touched(tmp_path):
    write_pile(tmp_path / "a.jsonl", abstracts()[:20])
    folder = prepare(tmp_path).folder
    before = files_of(folder)

    fix = "; write another name as `corpus`, or remove that folder"
    with pytest.raises(LauncherError) as other_settings:
        prepare(tmp_path, clean={"min_characters": 7})
    write_pile(tmp_path / "b.jsonl", abstracts()[20:40])
    with pytest.raises(LauncherError) as other_files:
        prepare(tmp_path)
    make_tokenizer(tmp_path / "tokenizer")
    (tmp_path / "b.jsonl").unlink()
    with pytest.raises(LauncherError) as other_tokenizer:
        prepare(tmp_path, tokenizer="./tokenizer")

    assert files_of(folder) == before
    what = f"{folder}: holds a corpus made from other files or settings"
    assert str(other_settings.value) == f"{what} (`clean.min_characters` 1 there, 7 here){fix}"
    assert str(other_files.value) == f"{what} (new: `b.jsonl`){fix}"
    assert str(other_tokenizer.value) == f"{what} (the tokenizer, an evaluation set, or the order of the files){fix}"


def test_changed_files_of_one_name_are_told_apart(tmp_path):
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        write_pile(tmp_path / name / "a.jsonl", [f"text {name}"])
    sources = [{"format": "pile", "files": "./*/a.jsonl"}]
    prepare(tmp_path, sources=sources, validation=0)
    write_pile(tmp_path / "one" / "a.jsonl", ["another text"])

    with pytest.raises(LauncherError, match=r"settings \(of another size: `one/a\.jsonl`\)"):
        prepare(tmp_path, sources=sources, validation=0)


@pytest.mark.parametrize("manifest", [None, "", "{"])
def test_a_folder_that_holds_no_whole_corpus_is_not_called_one(tmp_path, manifest):
    write_pile(tmp_path / "a.jsonl", abstracts()[:20])
    folder = tmp_path / "corpora" / "corpus"
    folder.mkdir(parents=True)
    if manifest is not None:
        (folder / MANIFEST).write_text(manifest)

    with pytest.raises(LauncherError, match=r"corpora/corpus: holds no complete corpus; write another name"):
        prepare(tmp_path)


def test_a_whole_corpus_that_was_not_yet_published_is_published(tmp_path):
    write_pile(tmp_path / "a.jsonl", abstracts()[:20])
    corpus = prepare(tmp_path)
    expected = files_of(corpus.folder)
    partial = tmp_path / "corpora" / "corpus.partial"
    partial.mkdir()
    os.rename(corpus.folder, partial / corpus.manifest.fingerprint[:16])

    assert files_of(prepare(tmp_path).folder) == expected


@contextmanager
def quicker_run(context, parts):
    """Once so many parts are there, another run makes the corpus of that name and clears the work folder away."""
    waiting = [context]

    def look():
        if waiting and len(list(context.run.root.parent.glob("corpora/*/*/parts/*.json"))) == parts:
            main(waiting.pop())
        return False

    with STOP.heeding(look):
        yield


@pytest.mark.parametrize("parts", [0, 6])
def test_of_two_runs_of_a_recipe_the_slower_one_finds_the_corpus_of_the_other(tmp_path, capsys, parts):
    for number in range(6):
        write_pile(tmp_path / f"{number}.jsonl", abstracts()[number::6])

    with quicker_run(make_context(tmp_path), parts):
        main(make_context(tmp_path))
    main(make_context(tmp_path))

    assert sum(open_corpus(tmp_path / "corpora" / "corpus").manifest.counts.documents.values()) == 500
    assert (
        "corpus: exists already, made from files of the same names and sizes with the same settings"
        in capsys.readouterr().out
    )
    assert os.listdir(tmp_path / "corpora") == ["corpus"]


@pytest.mark.parametrize("parts", [0, 6])
def test_of_two_recipes_of_one_name_the_slower_one_is_told_that_it_is_taken(tmp_path, parts):
    for number in range(6):
        write_pile(tmp_path / f"{number}.jsonl", abstracts()[number::6])
    other = make_context(tmp_path, validation=0.5)

    said = "holds a corpus made from other files or settings"
    with quicker_run(other, parts), pytest.raises(LauncherError, match=said):
        main(make_context(tmp_path))
