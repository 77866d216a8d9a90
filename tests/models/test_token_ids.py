"""Ids of a corpus stand for the tokens of the model that reads them."""

import json
from pathlib import Path

import pytest

from jobs.data.sampling.corpus_reader import open_corpora
from launcher.artifacts.corpus_manifest import TOKENIZER
from launcher.artifacts.token_ids import read_tokens, tokenizer_mismatches
from launcher.errors import LauncherError
from tests.support.corpora import make_corpus
from tests.support.prepare_runs import ASSETS


def put_tokenizer(folder: Path, vocabulary: object, added: tuple[dict[str, object], ...] = ()) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / TOKENIZER).write_text(json.dumps({"model": {"vocab": vocabulary}, "added_tokens": added}))
    return folder


def test_ids_are_read_from_every_kind_of_vocabulary(tmp_path: Path) -> None:
    words = put_tokenizer(tmp_path / "words", {"a": 0, "b": 1}, ({"id": 2, "content": "c", "special": False},))
    pieces = put_tokenizer(tmp_path / "pieces", [["a", 0.0], ["b", -1.5], ["c", -2.0]])

    assert read_tokens(words) == read_tokens(pieces) == {0: "a", 1: "b", 2: "c"}
    assert len(read_tokens(ASSETS / "stories260k") or ()) == 512 - 3  # <unk>, <s> and </s> are special


@pytest.mark.parametrize("content", [None, "", "[]", "{}", '{"model": {"vocab": 3}}', '{"model": null}'])
def test_what_is_no_tokenizer_says_nothing(tmp_path: Path, content: str | None) -> None:
    if content is not None:
        (tmp_path / TOKENIZER).write_text(content)

    assert read_tokens(tmp_path) is None


def test_corpora_of_other_tokens_are_named_with_what_differs(tmp_path: Path) -> None:
    model = put_tokenizer(tmp_path / "model", {"a": 0, "b": 1, "c": 2})
    same = put_tokenizer(tmp_path / "same", {"a": 0, "b": 1, "c": 2})
    swapped = put_tokenizer(tmp_path / "swapped", {"b": 0, "a": 1, "c": 2})
    folders = [("same", same), ("swapped", swapped)]

    by_model, by_first = (list(tokenizer_mismatches(folders, reference)) for reference in (model, None))

    assert [number for number, _ in by_model] == [number for number, _ in by_first] == [1]
    assert "2 of the 3 ids of `swapped` mean other tokens than those of the model" in by_model[0][1]
    assert "than those of `same`" in by_first[0][1]


def test_an_expanded_tokenizer_reads_corpora_of_its_base_and_special_tokens_may_be_renamed(tmp_path: Path) -> None:
    base = put_tokenizer(tmp_path / "base", {"<s>": 0, "a": 1}, ({"id": 0, "content": "<s>", "special": True},))
    added = ({"id": 0, "content": "<start>", "special": True}, {"id": 2, "content": "aorta", "special": False})
    expanded = put_tokenizer(tmp_path / "expanded", {"<start>": 0, "a": 1}, added)

    assert not list(tokenizer_mismatches([("base", base)], expanded))


def test_a_training_refuses_corpora_of_different_tokenizers(tmp_path: Path) -> None:
    for name, vocabulary in (("one", {"a": 0, "b": 1}), ("two", {"b": 0, "a": 1})):
        make_corpus(tmp_path / name, [[[1, 0]]])
        put_tokenizer(tmp_path / name, vocabulary)

    with pytest.raises(LauncherError, match=r"data\.corpora\.1\.name: tokenizer mismatch: .*`two`"):
        open_corpora([tmp_path / "one", tmp_path / "two"], "open")
