"""kind: vocabulary - from source files to a tokenizer that loads anywhere, over interruptions, telling nothing."""

import gzip
import json
import os
import shutil
import stat

import pytest
from transformers import AutoTokenizer

from jobs.data.corpus.shard_writer import split_of, text_hash
from jobs.kinds import vocabulary as vocabulary_module
from jobs.kinds.prepare import main as prepare
from jobs.kinds.vocabulary import main
from launcher.artifacts.corpus_manifest import file_sha256, read_manifest
from launcher.artifacts.tokenizer_manifest import read_expansion
from launcher.errors import LauncherError
from launcher.run.ledger import read_attempts
from tests.support.expandable_tokenizers import recipe_of
from tests.support.prepare_runs import ASSETS, abstracts, context_of, files_of, make_context, write_pile
from tests.support.stops import stopped_after

pytestmark = pytest.mark.slow

BASE = "./base"


def task(folder, **changes):
    """A task of a vocabulary whose tokenizers lie in `folder`/models."""
    (folder / "models").mkdir(parents=True, exist_ok=True)
    if not (folder / "base").exists():
        (folder / "base").symlink_to(ASSETS / "stories260k")
    return context_of(folder, recipe_of(tokenizer=BASE, **changes), folder / "models")


def expand(folder, **changes):
    """Carry out a vocabulary; return the tokenizer's folder."""
    main(task(folder, **changes))
    return folder / "models" / "expanded"


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A folder in which two files of abstracts have become a tokenizer."""
    folder = tmp_path_factory.mktemp("made")
    write_pile(folder / "a.jsonl.zst", abstracts()[:200])
    write_pile(folder / "b.jsonl.gz", abstracts()[200:400])
    expand(folder)
    return folder


def test_the_result_is_a_tokenizer_like_any_other(made):
    folder = made / "models" / "expanded"

    assert sorted(path.name for path in folder.iterdir()) == [
        "expansion.json",
        "tokenizer.json",
        "tokenizer_config.json",
    ]
    tokenizer = AutoTokenizer.from_pretrained(folder)
    assert len(tokenizer) == 912
    assert tokenizer.decode(tokenizer("The patient had COVID-19.")["input_ids"]) == "<s> The patient had COVID-19."
    assert [path.name for path in (made / "models").iterdir()] == ["expanded"]
    assert str(made) not in (folder / "tokenizer_config.json").read_text()


def test_the_expansion_says_what_a_model_needs(made):
    expansion = read_expansion(made / "models" / "expanded")
    tokenizer, base = (AutoTokenizer.from_pretrained(made / name) for name in ("models/expanded", "base"))

    assert (expansion.base.path, expansion.base.vocab_size) == (BASE, 512)
    assert (expansion.expanded.path, expansion.expanded.vocab_size) == ("expanded", 912)
    assert expansion.data_use == "open"
    assert [source.sha256 for source in expansion.sources] == [
        file_sha256(made / n) for n in ("a.jsonl.zst", "b.jsonl.gz")
    ]
    for number, parts in enumerate(expansion.parts):
        assert tokenizer.decode([1, 512 + number]) == base.decode([1, *parts])


def test_fertility_is_that_of_documents_which_nothing_was_learned_from(made):
    heldout = [text for text in abstracts()[:400] if split_of(text_hash(text), 0.1) == "validation"]
    words, characters = sum(len(text.split()) for text in heldout), sum(map(len, heldout))

    said = json.loads((made / "run" / "outputs" / "fertility.json").read_text())

    assert (said["documents"], said["words"], said["characters"]) == (len(heldout), words, characters)
    for name, folder in (("base", "base"), ("expanded", "models/expanded")):
        tokenizer = AutoTokenizer.from_pretrained(made / folder)
        tokens = sum(len(tokenizer(text, add_special_tokens=False)["input_ids"]) for text in heldout)
        assert said[name]["tokens"] == tokens
        assert said[name]["tokens_per_word"] == pytest.approx(tokens / words, abs=1e-4)
        assert said[name]["characters_per_token"] == pytest.approx(characters / tokens, abs=1e-4)
    assert said["expanded"]["tokens_per_word"] < 0.75 * said["base"]["tokens_per_word"]


def test_what_only_heldout_documents_hold_is_not_learned(tmp_path):
    texts = [f"xyzzyq {number}" for number in range(200)]
    heldout = [text for text in texts if split_of(text_hash(text), 0.1) == "validation"]
    write_pile(tmp_path / "a.jsonl", [*heldout, *abstracts()[:60]])

    tokenizer = AutoTokenizer.from_pretrained(expand(tmp_path))

    assert len(heldout) > 5
    assert not [token for token in tokenizer.get_vocab() if "zz" in token]


def test_a_share_is_learned_from_and_the_same_documents_measured_on(tmp_path, made, capsys):
    write_pile(tmp_path / "a.jsonl.zst", abstracts()[:400])
    whole = read_expansion(made / "models" / "expanded").measurement

    part = read_expansion(expand(tmp_path, share=0.2)).measurement

    assert (part.documents, part.base) == (whole.documents, whole.base)
    learned = sum(0.1 <= text_hash(text) / 2**64 < 0.28 for text in abstracts()[:400])
    assert f"train {learned} documents" in capsys.readouterr().out


def test_the_ledger_and_the_log_tell_of_it(tmp_path, capsys):
    write_pile(tmp_path / "a.jsonl", abstracts()[:100])

    expand(tmp_path)

    (attempt,) = read_attempts(tmp_path / "run" / "attempts.jsonl")
    assert (attempt.reason, attempt.source, attempt.last_step, attempt.total_steps) == ("finished", "vocabulary", 1, 1)
    assert "new tokens, " in capsys.readouterr().out


@pytest.mark.parametrize("looks", range(5))
def test_a_stop_loses_nothing_and_changes_nothing(tmp_path, made, looks):
    write_pile(tmp_path / "a.jsonl.zst", abstracts()[:200])
    write_pile(tmp_path / "b.jsonl.gz", abstracts()[200:400])

    with stopped_after(looks):
        main(task(tmp_path))
    assert not (tmp_path / "models" / "expanded").exists()
    folder = expand(tmp_path)

    here, there = (files_of(path / "models" / "expanded") for path in (tmp_path, made))
    assert {name: here[name] for name in ("tokenizer.json", "tokenizer_config.json")} == {
        name: there[name] for name in ("tokenizer.json", "tokenizer_config.json")
    }
    assert read_expansion(folder).measurement == read_expansion(made / "models" / "expanded").measurement


def test_what_was_learned_is_not_learned_again(tmp_path, monkeypatch):
    write_pile(tmp_path / "a.jsonl", abstracts()[:100])
    with monkeypatch.context() as patch:
        patch.setattr(vocabulary_module, "_build", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            expand(tmp_path)

    monkeypatch.setattr(vocabulary_module, "_learn_tokens", lambda *_: 1 / 0)

    assert expand(tmp_path).exists()


def test_a_file_that_changed_is_counted_and_learned_again(tmp_path, monkeypatch):
    write_pile(tmp_path / "a.jsonl", [text.upper() for text in abstracts()[:100]])
    with monkeypatch.context() as patch:
        patch.setattr(vocabulary_module, "put_in_place", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            expand(tmp_path)

    write_pile(tmp_path / "a.jsonl", abstracts()[:100])  # of the same size

    assert "▁patients" in AutoTokenizer.from_pretrained(expand(tmp_path)).get_vocab()


def test_a_tokenizer_that_is_there_is_not_made_again(made, monkeypatch):
    before = files_of(made / "models")
    monkeypatch.setattr(vocabulary_module, "process_files", lambda *_: 1 / 0)

    expand(made)

    assert files_of(made / "models") == before


def test_what_has_its_name_is_on_disk(tmp_path, monkeypatch):
    write_pile(tmp_path / "a.jsonl", abstracts()[:100])
    shutil.copytree(ASSETS / "stories260k", tmp_path / "base")
    (tmp_path / "base" / "chat_template.jinja").write_text("{{ messages }}")  # a file that transformers writes
    synced = set()
    monkeypatch.setattr("jobs.rank.atomic_files.os.fsync", lambda handle: synced.add(os.fstat(handle).st_ino))

    folder = expand(tmp_path)

    assert {
        path.name for path in (folder.parent, folder, *folder.iterdir()) if path.stat().st_ino not in synced
    } == set()


def test_heldout_text_that_a_killed_run_left_behind_is_removed(made):
    left = made / "models" / "expanded.partial" / "fingerprint" / "parts" / "00000.heldout.gz"
    left.parent.mkdir(parents=True)
    left.touch()

    expand(made)

    assert os.listdir(made / "models") == ["expanded"]


@pytest.mark.parametrize("change", [{"new_tokens": 30}, {"min_documents": 2}, {"max_characters": 9}, {"heldout": 0.2}])
def test_another_tokenizer_of_that_name_is_never_overwritten(made, change):
    with pytest.raises(LauncherError, match="holds a tokenizer made from other files or settings"):
        expand(made, **change)


def test_a_folder_that_holds_something_else_is_never_overwritten(tmp_path):
    write_pile(tmp_path / "a.jsonl", abstracts()[:20])
    (tmp_path / "models" / "expanded").mkdir(parents=True)

    with pytest.raises(LauncherError, match="holds no tokenizer that `kind: vocabulary` made; write another name"):
        expand(tmp_path)


@pytest.mark.parametrize(
    ("documents", "key"), [(["cough"] * 5, "heldout"), (["a cough 7"], "share")], ids=["heldout", "share"]
)
def test_documents_are_needed_on_both_sides(tmp_path, documents, key):
    chosen = {"heldout": 0.5}
    side = "train" if key == "heldout" else "validation"
    text = next(text for i in range(99) if split_of(text_hash(text := f"{documents[0]} {i}"), 0.5) == side)
    write_pile(tmp_path / "a.jsonl", [text] * 5)

    with pytest.raises(LauncherError, match=f"{key}: no document is left"):
        expand(tmp_path, **chosen)


def test_text_without_common_words_is_refused(tmp_path):
    write_pile(tmp_path / "a.jsonl", [f"{number}" for number in range(50)])

    with pytest.raises(LauncherError, match="min_documents: no part of a word"):
        expand(tmp_path)


def test_too_many_bad_lines_fail_the_run(tmp_path):
    (tmp_path / "a.jsonl").write_text('{"text": "good"}\n{"text": bad\n')

    with pytest.raises(LauncherError, match="1 of 2 records cannot be read"):
        expand(tmp_path)


def test_notes_of_one_patient_count_once_and_nothing_of_them_is_told(tmp_path, capsys):
    assert split_of(text_hash("mimic_iv/7"), 0.2) == "train"
    rows = ["note_id,subject_id,hadm_id,note_type,note_seq,charttime,storetime,text"]
    common = "The patient was admitted with pneumonia and discharged home."
    for subject in range(60):
        for number in range(12 if subject == 7 else 1):
            secret = "Quixzotl lives in Zanthropy. " if subject == 7 else ""
            row = [
                f"{subject}-DS-{number}",
                subject,
                1,
                "DS",
                number,
                "2020-01-01",
                "2020-01-01",
                f'"{secret}{common} {number}"',
            ]
            rows.append(",".join(map(str, row)))
    with gzip.open(tmp_path / "discharge.csv.gz", "wt") as file:
        file.write("\n".join(rows) + "\n")
    sources = [{"format": "mimic_iv", "files": "./discharge.csv.gz"}]

    folder = expand(tmp_path, sources=sources, data_use="credentialed", min_documents=11, heldout=0.2)

    everything = b"".join([*files_of(tmp_path / "models").values(), *files_of(tmp_path / "run").values()])
    told = capsys.readouterr()
    assert "pneumonia" not in told.out + told.err
    assert "▁pneumonia" in AutoTokenizer.from_pretrained(folder).get_vocab()
    for part in ("Quix", "zotl", "Zanth", "thropy"):
        assert part.encode() not in everything
        assert part not in told.out + told.err
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert read_expansion(folder).data_use == "credentialed"


def test_the_work_of_credentialed_text_is_closed_to_others(tmp_path):
    write_pile(tmp_path / "a.jsonl", abstracts()[:50])

    with stopped_after(2):
        main(task(tmp_path, data_use="credentialed", min_documents=11))

    (work,) = (tmp_path / "models" / "expanded.partial").iterdir()
    assert stat.S_IMODE(work.stat().st_mode) == 0o700


def test_a_corpus_can_be_prepared_with_it(made, tmp_path):
    source = write_pile(tmp_path / "a.jsonl", abstracts()[400:])
    base = make_context(tmp_path, corpus="base", sources=[{"format": "pile", "files": f"./{source.name}"}])
    (tmp_path / "expanded").symlink_to(made / "models" / "expanded")
    new = make_context(tmp_path, tokenizer="./expanded", sources=[{"format": "pile", "files": f"./{source.name}"}])

    prepare(base)
    prepare(new)

    small, large = (read_manifest(tmp_path / "corpora" / name) for name in ("corpus", "base"))
    assert small.tokenizer.vocab_size == 912
    assert small.counts.tokens["train"] < 0.75 * large.counts.tokens["train"]
    assert small.tokenizer.fingerprint == read_expansion(made / "models" / "expanded").expanded.fingerprint


def test_a_tokenizer_of_credentialed_text_is_refused_for_open_text(made, tmp_path):
    write_pile(tmp_path / "a.jsonl", abstracts()[:50])
    expansion = read_expansion(made / "models" / "expanded").model_copy(update={"data_use": "credentialed"})
    (tmp_path / "own").mkdir()
    (tmp_path / "own" / "expansion.json").write_text(expansion.model_dump_json())

    with pytest.raises(LauncherError, match=r"`\./own` was made of credentialed text"):
        prepare(make_context(tmp_path, tokenizer="./own"))
