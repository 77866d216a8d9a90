"""kind: prepare, from source files to a published corpus."""

import hashlib
import json
import os
import re
import shutil
import signal
import stat
import subprocess
import sys
import unicodedata
from dataclasses import replace
from types import SimpleNamespace

import pytest
import zstandard
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import AutoTokenizer

from jobs.data import parts
from jobs.data.corpus import open_corpus
from jobs.data.keys import KeyRecorder
from jobs.data.making import make_work_folder
from jobs.data.plan import find_files, make_plan
from jobs.data.readers import read
from jobs.data.tokenize import load_encoder
from jobs.prepare import main
from jobs.runtime.context import Ranks
from jobs.runtime.stop import StopFlag
from launcher.corpus import MANIFEST, SPLITS
from launcher.errors import LauncherError
from launcher.ledger import read_attempts
from launcher.paths import CONTINUE, FINISHED, NEVER_RESTART
from tests.corpora import flaws_of
from tests.preparing import ABSTRACTS, ASSETS, abstracts, documents_of, files_of, make_context, write_pile, write_source
from tests.shared_data import shared_data
from tests.waiting import wait_for

pytestmark = pytest.mark.slow

PLANTED = "Zaphodia"


def prepare(folder, **changes):
    context = make_context(folder, **changes)
    assert main(context, StopFlag()) == FINISHED
    return open_corpus(folder / "corpora" / "corpus")


class StopAfter(StopFlag):
    """A stop request that comes after so many looks."""

    def __init__(self, looks):
        super().__init__()
        self._looks = looks

    def wanted(self, run, is_main):  # noqa: ARG002
        self._looks -= 1
        return self._looks < 0


def make_tokenizer(folder, size=300, template=None):
    """A tokenizer of a word per id, with EOS `<|end|>`, in transformers' format."""
    words = {f"w{i}": i for i in range(1, size - 1)} | {"<unk>": 0}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.add_special_tokens(["<|end|>"])
    if template:
        tokenizer.post_processor = processors.TemplateProcessing(
            single=template, special_tokens=[("<|end|>", size - 1)]
        )
    folder.mkdir()
    tokenizer.save(str(folder / "tokenizer.json"))
    config = {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": "<|end|>"}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))


def test_shards_equal_those_of_a_plain_program(tmp_path):
    corpus = prepare(
        tmp_path, sources=[{"format": "pile", "files": f"../{os.path.relpath(ABSTRACTS, tmp_path.parent)}"}]
    )
    tokenizer = AutoTokenizer.from_pretrained(ASSETS / "stories260k")
    expected = [[*tokenizer(text)["input_ids"], tokenizer.eos_token_id] for text in abstracts()]

    train, validation = documents_of(corpus, "train"), documents_of(corpus, "validation")

    assert sorted(train + validation) == sorted(expected)
    assert train == [ids for ids in expected if ids in train]
    assert 25 < len(validation) < 75
    assert all(ids[0] == tokenizer.bos_token_id and ids[-1] == tokenizer.eos_token_id for ids in train)
    assert tokenizer.decode(train[0], skip_special_tokens=True) in abstracts()
    counts = corpus.manifest.counts
    assert counts.records == 500
    assert counts.documents == {"train": len(train), "validation": len(validation)}
    assert counts.tokens == {"train": sum(map(len, train)), "validation": sum(map(len, validation))}
    assert flaws_of(corpus.folder) == []


def test_compression_changes_nothing(tmp_path):
    made = {}
    for suffix in ("jsonl", "jsonl.gz", "jsonl.zst"):
        folder = tmp_path / suffix
        folder.mkdir()
        write_pile(folder / f"a.{suffix}", abstracts()[:50])
        files = files_of(prepare(folder).folder)
        made[suffix] = {name: content for name, content in files.items() if name != MANIFEST}

    assert len(made["jsonl"]) == 5
    assert made["jsonl"] == made["jsonl.gz"] == made["jsonl.zst"]


def test_the_manifest_says_what_the_corpus_is_made_of(tmp_path):
    path = write_pile(tmp_path / "a.jsonl", abstracts()[:50])
    manifest = prepare(tmp_path).manifest

    (source,) = manifest.sources
    assert (source.path, source.license, source.size) == (str(path), "MIT", path.stat().st_size)
    assert source.sha256 == subprocess.check_output(["sha256sum", path], text=True).split()[0]
    assert (manifest.tokenizer.prefix, manifest.tokenizer.eos, manifest.tokenizer.vocab_size) == ((1,), 2, 512)
    assert manifest.dtype == "uint16"
    assert manifest.data_use == "open"
    assert manifest.code == "0.1.0 hash"


def test_short_documents_and_other_subsets_are_dropped_and_counted(tmp_path):
    records = [
        {"text": "kept", "meta": {"pile_set_name": "PubMed Abstracts"}},
        {"text": "no", "meta": {"pile_set_name": "PubMed Abstracts"}},
        {"text": "other", "meta": {"pile_set_name": "Github"}},
        {"text": "none"},
        {"text": "strange", "meta": ["PubMed Abstracts"]},
    ]
    write_pile(tmp_path / "a.jsonl", records)
    source = {"format": "pile", "files": "./a.jsonl", "subsets": ["PubMed Abstracts"]}

    counts = prepare(tmp_path, sources=[source], clean={"min_characters": 3}, validation=0).manifest.counts

    assert counts.documents == {"train": 1, "validation": 0}
    assert counts.dropped == {"other_subset": 3, "too_short": 1}


def test_the_split_depends_on_the_text_alone(tmp_path):
    texts = abstracts()[:200]
    one, other = tmp_path / "one", tmp_path / "other"
    one.mkdir()
    other.mkdir()
    write_pile(one / "a.jsonl", texts)
    write_pile(other / "a.jsonl.gz", texts[120:])
    write_pile(other / "b.jsonl.zst", texts[119::-1])

    first, second = prepare(one), prepare(other)

    assert sorted(documents_of(first, "validation")) == sorted(documents_of(second, "validation"))
    assert sorted(documents_of(first, "train")) == sorted(documents_of(second, "train"))


def test_the_split_is_the_one_that_the_manifest_states(tmp_path):
    texts = abstracts()[:100]
    write_pile(tmp_path / "a.jsonl", texts)

    corpus = prepare(tmp_path, validation=0.3)

    rule = corpus.manifest.split.rule
    assert rule.startswith("BLAKE2b with a digest of 8 bytes, read as a big-endian number, of the document's text")
    digests = {text: hashlib.blake2b(text.encode("utf-8"), digest_size=8).digest() for text in texts}
    expected = [text for text in texts if int.from_bytes(digests[text], "big") < 0.3 * 2**64]
    tokenizer = load_encoder(str(ASSETS / "stories260k"), "stories260k")
    assert documents_of(corpus, "validation") == tokenizer.encode(expected)


@pytest.mark.parametrize(("validation", "expected"), [(0, (20, 0)), (0.9999, (0, 20))])
def test_a_split_may_be_empty_but_for_training(tmp_path, validation, expected):
    write_pile(tmp_path / "a.jsonl", abstracts()[:20])

    if expected[0]:
        corpus = prepare(tmp_path, validation=validation)
        assert tuple(corpus.manifest.counts.documents.values()) == expected
        assert not (corpus.folder / "validation").exists() or not list((corpus.folder / "validation").iterdir())
    else:
        with pytest.raises(LauncherError, match="no document is left for training"):
            prepare(tmp_path, validation=validation)


BAD_LINES = {
    b'{"text": "cut': "is not JSON",
    b'{"text": "\xff\xfe"}': "is not UTF-8",
    b'{"text": "\\ud800"}': "is not JSON",
    b'["text"]': "is not a JSON object",
    b"17": "is not a JSON object",
    b'{"txt": "misspelt"}': "has no `text`",
    b'{"text": 5}': "its `text` is not a string",
    b'{"text": null}': "its `text` is not a string",
    b"\0\0": "holds NUL bytes, as a hole in a file does",
    b"[" * 100_000: "is not JSON",
}


@pytest.mark.parametrize(("line", "complaint"), BAD_LINES.items())
def test_a_bad_line_is_counted_and_named(tmp_path, capsys, line, complaint):
    good = b"".join(json.dumps({"text": text}).encode() + b"\n" for text in abstracts()[:20])
    path = write_source(tmp_path / "a.jsonl.gz", good + b"\n" + line + b"\n" + good)

    counts = prepare(tmp_path, max_bad_fraction=0.1).manifest.counts

    assert (counts.records, counts.bad_records, sum(counts.documents.values())) == (41, 1, 40)
    assert f"{path}:22: {complaint}" in capsys.readouterr().out


def test_too_many_bad_lines_fail_the_run_and_forgiving_them_costs_no_second_reading(tmp_path, capsys):
    content = b"".join(json.dumps({"text": text}).encode() + b"\n" for text in abstracts()[:20])
    path = write_source(tmp_path / "a.jsonl", content + b'{"text": broken\n{"txt": 1}\n')
    other = write_pile(tmp_path / "b.jsonl", ["more " * 1000] * 10)  # larger, so that it is read first
    one_worker = {"cpus_per_task": 1, "time": "1h"}

    with pytest.raises(LauncherError) as caught:
        prepare(tmp_path, resources=one_worker)
    message = str(caught.value)
    first = message.splitlines()[0]  # all that `launcher status` shows
    assert "2 of 32 records cannot be read, more than `max_bad_fraction: 0.001` forgives. " in first
    assert f"The first one: {path}:21: is not JSON" in first
    assert first.endswith("; mend the files, or raise it, and submit again: what was made of the others is kept")
    assert f"{path}:22: has no `text`" in message
    assert str(other) not in message
    assert not (tmp_path / "corpora" / "corpus").exists()

    capsys.readouterr()
    prepare(tmp_path, max_bad_fraction=0.1)
    assert "2 source files, 2 of them done before" in capsys.readouterr().out


@pytest.mark.parametrize("suffix", ["gz", "zst"])
def test_a_truncated_file_is_not_trusted_but_gives_what_is_there_if_forgiven(tmp_path, suffix):
    path = write_pile(tmp_path / f"a.jsonl.{suffix}", abstracts())
    path.write_bytes(path.read_bytes()[:-1000])

    with pytest.raises(LauncherError, match=rf"cannot be read, more than .* one: {path}:\d+: the file is damaged: \w+"):
        prepare(tmp_path, max_bad_fraction=0.5)
    counts = prepare(tmp_path, max_bad_fraction=1).manifest.counts

    kept = sum(counts.documents.values())
    assert 300 < kept < 500
    assert counts.bad_records == counts.records == kept


def test_lines_behind_damage_count_by_the_rate_so_far(tmp_path):
    path = write_pile(tmp_path / "a.jsonl.zst", abstracts())
    path.write_bytes(path.read_bytes() + b"\xff" * path.stat().st_size)

    counts = prepare(tmp_path, max_bad_fraction=1).manifest.counts

    assert sum(counts.documents.values()) == 500
    assert 800 < counts.records < 1_050
    assert counts.bad_records == counts.records


def test_a_wrong_checksum_spoils_the_file(tmp_path):
    path = write_pile(tmp_path / "a.jsonl.gz", abstracts()[:20])
    content = bytearray(path.read_bytes())
    content[-8] ^= 1  # CRC-32, little-endian, then the size: https://www.rfc-editor.org/rfc/rfc1952
    path.write_bytes(content)

    with pytest.raises(
        LauncherError, match=r"20 of 20 records cannot be read.* one: .*a\.jsonl\.gz:21: .* CRC check failed"
    ):
        prepare(tmp_path)


def test_wide_vocabularies_get_wide_ids_and_no_bos_where_the_tokenizer_has_none(tmp_path):
    make_tokenizer(tmp_path / "tokenizer", size=70_000)
    write_pile(tmp_path / "a.jsonl", ["w1 w69000", "w5"])

    corpus = prepare(tmp_path, tokenizer="./tokenizer", validation=0)

    assert corpus.manifest.dtype == "uint32"
    assert documents_of(corpus, "train") == [[1, 69_000, 69_999], [5, 69_999]]


def test_ids_beyond_the_number_of_words_fit(tmp_path):
    make_tokenizer(tmp_path / "tokenizer")
    path = tmp_path / "tokenizer" / "tokenizer.json"
    path.write_text(path.read_text().replace('"w7": 7', '"w7": 70000').replace('"w7":7', '"w7":70000'))
    write_pile(tmp_path / "a.jsonl", ["w7 w8"])

    corpus = prepare(tmp_path, tokenizer="./tokenizer", validation=0)

    assert corpus.manifest.tokenizer.vocab_size == 70_001
    assert documents_of(corpus, "train")[0][:2] == [70_000, 8]


def test_the_largest_vocabulary_of_narrow_ids(tmp_path):
    make_tokenizer(tmp_path / "tokenizer", size=65_536)
    write_pile(tmp_path / "a.jsonl", ["w1"])

    corpus = prepare(tmp_path, tokenizer="./tokenizer", validation=0)

    assert corpus.manifest.dtype == "uint16"
    assert documents_of(corpus, "train") == [[1, 65_535]]


def test_eos_is_not_doubled_and_its_name_in_the_text_is_text(tmp_path):
    make_tokenizer(tmp_path / "tokenizer", template="$A <|end|>")
    write_pile(tmp_path / "a.jsonl", ["w1 <|end|> w2", ""])

    corpus = prepare(tmp_path, tokenizer="./tokenizer", validation=0, clean={"min_characters": 0})

    assert documents_of(corpus, "train") == [[1, 0, 2, 299], [299]]


def test_a_tokenizer_that_cannot_end_a_document_is_refused(tmp_path):
    make_tokenizer(tmp_path / "tokenizer")
    (tmp_path / "tokenizer" / "tokenizer_config.json").write_text('{"tokenizer_class": "PreTrainedTokenizerFast"}')
    write_pile(tmp_path / "a.jsonl", ["w1"])

    with pytest.raises(LauncherError, match=r"`\./tokenizer` has no end-of-sequence token, .*; set `eos_token`"):
        prepare(tmp_path, tokenizer="./tokenizer")


def test_a_tokenizer_that_is_not_there_is_named(tmp_path):
    write_pile(tmp_path / "a.jsonl", ["text"])

    with pytest.raises(LauncherError, match=r"`\./nowhere` .* cannot be loaded: .*; write a folder below"):
        prepare(tmp_path, tokenizer="./nowhere")


def test_sources_that_match_no_file_are_named(tmp_path):
    with pytest.raises(LauncherError, match=r"sources\.0\.files: `\./\*\.jsonl\*` matches no file .*; correct it"):
        prepare(tmp_path)


def test_files_of_other_compression_are_named_before_any_is_read(tmp_path):
    write_pile(tmp_path / "a.jsonl", ["one"])
    for name in ("b.jsonl.bz2", "c.jsonl.xz"):
        write_source(tmp_path / name, b"")

    with pytest.raises(
        LauncherError, match=r"files: `\S+/b\.jsonl\.bz2` and 1 more: not read as it is compressed; unpack"
    ):
        prepare(tmp_path)


def test_folders_named_like_patterns_are_found(tmp_path):
    folder = tmp_path / "run [1] *"
    folder.mkdir()
    write_pile(folder / "a.jsonl", ["text"])

    assert prepare(folder, validation=0).manifest.counts.records == 1
    sources = [{"format": "pile", "files": "a.jsonl", "license": "MIT"}]
    assert prepare(folder, validation=0, sources=sources).manifest.counts.records == 1


def test_several_tasks_are_refused(tmp_path):
    write_pile(tmp_path / "a.jsonl", ["text"])
    context = make_context(tmp_path)
    object.__setattr__(context, "ranks", Ranks(1, 2, 0, 1, 1))

    with pytest.raises(LauncherError, match="write `nodes: 1` and `gpus_per_node: 0`"):
        main(context, StopFlag())


def test_any_number_of_workers_makes_the_same_bytes(tmp_path):
    made = []
    for workers in (1, 3):
        folder = tmp_path / str(workers) / "x"
        folder.mkdir(parents=True)
        for number in range(5):
            write_pile(folder / f"{number}.jsonl", abstracts()[number::5])
        corpus = prepare(folder, resources={"cpus_per_task": workers, "time": "1h"})
        made.append({name: content for name, content in files_of(corpus.folder).items() if name != MANIFEST})

    assert len(made[0]) == 5  # two shards with their indices, and the tokenizer
    assert made[0] == made[1]


def test_a_stopped_prepare_goes_on_where_it_was(tmp_path, capsys):
    for number in range(5):
        write_pile(tmp_path / f"{number}.jsonl", abstracts()[number::5])
    context = make_context(tmp_path, resources={"cpus_per_task": 1, "time": "1h"})

    assert main(context, StopAfter(2)) == CONTINUE
    (attempt,) = read_attempts(context.run.ledger)
    assert (attempt.first_step, attempt.reason) == (0, "stopped")
    assert 0 < attempt.last_step < 5
    assert not (tmp_path / "corpora" / "corpus").exists()

    assert main(context, StopFlag()) == FINISHED
    assert f"{attempt.last_step} of them done before" in capsys.readouterr().out
    (attempt,) = read_attempts(context.run.ledger)
    assert (attempt.last_step, attempt.reason) == (5, "finished")
    assert os.listdir(tmp_path / "corpora") == ["corpus"]


def test_a_stop_request_before_the_start_starts_nothing(tmp_path):
    write_pile(tmp_path / "a.jsonl", ["text"])
    context = make_context(tmp_path)
    context.run.stop_request.touch()

    assert main(context, StopFlag()) == CONTINUE


def test_a_file_that_changed_since_its_part_was_made_is_read_again(tmp_path):
    write_pile(tmp_path / "a.jsonl", ["first"])
    last = write_pile(tmp_path / "b.jsonl", ["other"])
    context = make_context(tmp_path, validation=0, resources={"cpus_per_task": 1, "time": "1h"})
    assert main(context, StopAfter(1)) == CONTINUE
    written = last.stat()
    write_pile(tmp_path / "a.jsonl", ["fresh"])
    os.utime(tmp_path / "a.jsonl", ns=(written.st_atime_ns, written.st_mtime_ns + 10**9))

    assert main(context, StopFlag()) == FINISHED

    corpus = open_corpus(tmp_path / "corpora" / "corpus")
    assert flaws_of(corpus.folder) == []
    decode = AutoTokenizer.from_pretrained(ASSETS / "stories260k").decode
    assert decode(documents_of(corpus, "train")[0], skip_special_tokens=True) == "fresh"


def test_a_file_that_somebody_writes_while_it_is_read_ends_the_run(tmp_path, monkeypatch):
    path = write_pile(tmp_path / "a.jsonl", ["one", "two"])
    write_pile(tmp_path / "b.jsonl", ["other"])

    def read_and_write(intake, source):
        yield from read(intake, source)
        if intake.path == path:
            path.write_bytes(2 * path.read_bytes())

    with monkeypatch.context() as patch, pytest.raises(LauncherError, match=r"a\.jsonl: was written while it was read"):
        patch.setattr(parts, "read", read_and_write)
        prepare(tmp_path)

    assert prepare(tmp_path).manifest.counts.records == 5


def test_a_file_that_is_put_back_after_a_kill_is_not_taken_for_what_the_killed_attempt_read(tmp_path, monkeypatch):
    source = write_pile(tmp_path / "a.jsonl", ["first"])
    write_pile(tmp_path / "b.jsonl", ["other"])
    context = make_context(tmp_path, validation=0, resources={"cpus_per_task": 1, "time": "1h"})
    assert main(context, StopAfter(1)) == CONTINUE
    written = source.stat()
    write_pile(source, ["fresh"])
    os.utime(source, ns=(written.st_atime_ns, written.st_mtime_ns + 10**9))
    with monkeypatch.context() as patch, pytest.raises(OSError, match="no room"):
        patch.setattr(KeyRecorder, "save", fill_disk)  # shards are in place by then, the record is not
        main(context, StopFlag())
    write_pile(source, ["first"])
    os.utime(source, ns=(written.st_atime_ns, written.st_mtime_ns))

    assert main(context, StopFlag()) == FINISHED

    decode = AutoTokenizer.from_pretrained(ASSETS / "stories260k").decode
    documents = documents_of(open_corpus(tmp_path / "corpora" / "corpus"), "train")
    assert [decode(ids, skip_special_tokens=True) for ids in documents] == ["first", "other"]


def fill_disk(*_):
    raise OSError("no room")


def test_after_a_file_was_fetched_again_only_that_one_is_read(tmp_path, capsys):
    for name in "abc":
        write_pile(tmp_path / f"{name}.jsonl", [f"{name} {text}" for text in abstracts()[:20]])
    whole = (tmp_path / "b.jsonl").read_bytes()
    (tmp_path / "b.jsonl").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(LauncherError, match="max_bad_fraction"):
        prepare(tmp_path, max_bad_fraction=0.001, resources={"cpus_per_task": 1, "time": "1h"})
    (tmp_path / "b.jsonl").write_bytes(whole)
    capsys.readouterr()

    corpus = prepare(tmp_path)

    assert "3 source files, 2 of them done before" in capsys.readouterr().out
    assert flaws_of(corpus.folder) == []
    made = files_of(corpus.folder)
    shutil.rmtree(corpus.folder)
    assert files_of(prepare(tmp_path).folder) == made


def test_every_version_of_the_code_that_made_a_part_is_named(tmp_path, capsys):
    for number in range(3):
        write_pile(tmp_path / f"{number}.jsonl", abstracts()[number::3])
    context = make_context(tmp_path, resources={"cpus_per_task": 1, "time": "1h"})
    assert main(context, StopAfter(2)) == CONTINUE
    newer = replace(context, record=replace(context.record, code_commit="newer"))
    assert main(newer, StopAfter(2)) == CONTINUE
    assert "parts of other code are among them (0.1.0 hash)" in capsys.readouterr().out

    assert main(newer, StopFlag()) == FINISHED

    folder = tmp_path / "corpora" / "corpus"
    made = files_of(folder)
    manifest = json.loads(made.pop(MANIFEST))
    assert manifest["code"] == "0.1.0 hash, 0.1.0 newer"
    shutil.rmtree(folder)
    assert main(newer, StopFlag()) == FINISHED
    again = files_of(folder)
    assert json.loads(again.pop(MANIFEST)) == manifest | {"code": "0.1.0 newer"}
    assert again == made


def test_a_part_of_another_licence_or_with_other_settings_is_not_taken_over(tmp_path, capsys):
    for name in "ab":
        write_pile(tmp_path / f"{name}.jsonl", abstracts()[:3])
    one_cpu = {"cpus_per_task": 1, "time": "1h"}
    assert main(make_context(tmp_path, resources=one_cpu), StopAfter(1)) == CONTINUE

    for changes in (
        {"sources": [{"format": "pile", "files": "./*.jsonl", "license": "CC0-1.0"}]},
        {"clean": {"min_characters": 7}},
        {"data_use": "credentialed"},
    ):
        assert main(make_context(tmp_path, resources=one_cpu, **changes), StopAfter(1)) == CONTINUE
        assert "2 source files, 0 of them done before" in capsys.readouterr().out.splitlines()[-2]


@pytest.mark.parametrize(("lost", "added"), [("train/00000.ds", []), ("00000.npz", ["b"]), ("00000.signatures", ["b"])])
def test_a_part_of_which_a_file_is_lost_is_made_again(tmp_path, capsys, lost, added):
    write_pile(tmp_path / "a.jsonl", abstracts()[:20])
    plan = make_plan(make_context(tmp_path, clean={"near_duplicates": {}}))
    plan.work.mkdir(parents=True)
    parts.make_part(plan, 0)
    (plan.parts / lost).unlink()
    for name in added:
        write_pile(tmp_path / f"{name}.jsonl", abstracts()[20:40])

    corpus = prepare(tmp_path, clean={"near_duplicates": {}})

    assert "0 of them done before" in capsys.readouterr().out
    assert sum(map(corpus.manifest.counts.documents.get, SPLITS)) == 20 + 20 * len(added)


def test_the_name_of_a_corpus_is_on_disk_before_its_parts_are_removed(tmp_path, monkeypatch):
    write_pile(tmp_path / "a.jsonl", abstracts()[:20])
    (tmp_path / "corpora").mkdir()
    root, seen = (tmp_path / "corpora").stat().st_ino, []
    monkeypatch.setattr(
        "jobs.runtime.durable.os.fsync",
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
    assert f"warning: written after the corpus was, and not compared: {path}; if that is" in capsys.readouterr().out


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


@pytest.mark.parametrize("manifest", [None, "", "{"])
def test_a_folder_that_holds_no_whole_corpus_is_not_called_one(tmp_path, manifest):
    write_pile(tmp_path / "a.jsonl", abstracts()[:20])
    folder = tmp_path / "corpora" / "corpus"
    folder.mkdir(parents=True)
    if manifest is not None:
        (folder / MANIFEST).write_text(manifest)

    with pytest.raises(LauncherError, match=r"corpora/corpus: is there, and holds no whole corpus; write another name"):
        prepare(tmp_path)


def test_a_whole_corpus_that_was_not_yet_published_is_published(tmp_path):
    write_pile(tmp_path / "a.jsonl", abstracts()[:20])
    corpus = prepare(tmp_path)
    expected = files_of(corpus.folder)
    partial = tmp_path / "corpora" / "corpus.partial"
    partial.mkdir()
    os.rename(corpus.folder, partial / corpus.manifest.fingerprint[:16])

    assert files_of(prepare(tmp_path).folder) == expected


def test_nothing_of_credentialed_text_is_told_and_nobody_else_may_look(tmp_path, capfd):
    text = f"Patient {PLANTED} was discharged."
    content = json.dumps({"text": text}) + "\n" + '{"text": "' + PLANTED + "\n" + json.dumps([PLANTED]) + "\n"
    write_source(tmp_path / "a.jsonl", content.encode())

    with pytest.raises(LauncherError) as caught:
        prepare(tmp_path, data_use="credentialed", validation=0)
    corpus = prepare(tmp_path, data_use="credentialed", validation=0, max_bad_fraction=0.9)

    said = "".join(capfd.readouterr()) + str(caught.value) + (corpus.folder / MANIFEST).read_text()
    assert "a.jsonl:2: is not JSON" in said
    assert PLANTED not in said
    assert stat.S_IMODE(corpus.folder.stat().st_mode) == 0o700
    assert corpus.manifest.data_use == "credentialed"


def start_task(context):
    return subprocess.Popen([sys.executable, "-m", "jobs", context.run.root], stdout=subprocess.DEVNULL)


def children_of(pid):
    with open(f"/proc/{pid}/task/{pid}/children") as file:
        return [int(child) for child in file.read().split()]


def is_running(pid):
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rsplit(")", 1)[1].split()[0] not in "ZX"
    except FileNotFoundError:
        return False


@pytest.mark.slow
def test_a_killed_worker_is_told_in_a_line_with_what_helps(tmp_path):
    os.mkfifo(tmp_path / "a.jsonl")
    write_pile(tmp_path / "b.jsonl", abstracts())
    context = make_context(tmp_path)
    with (tmp_path / "said").open("w") as said:
        process = subprocess.Popen([sys.executable, "-m", "jobs", context.run.root], stderr=said)
        wait_for(lambda: children_of(process.pid), "a worker")
        os.kill(children_of(process.pid)[0], signal.SIGKILL)

    assert process.wait() == 1
    line = (tmp_path / "said").read_text()
    assert re.fullmatch(r"rank 0 on \S+: a worker process was killed, .*; ask for more `resources\.memory`, .*\n", line)
    assert read_attempts(context.run.ledger)[0].fault == line.rstrip("\n")


@pytest.mark.slow
def test_bad_data_ends_the_task_with_the_code_that_forbids_a_restart(tmp_path):
    path = write_source(tmp_path / "a.jsonl", b'{"text": "fine"}\nnot fine\n')
    context = make_context(tmp_path)

    task = subprocess.run([sys.executable, "-m", "jobs", context.run.root], capture_output=True, text=True, check=False)

    assert task.returncode == NEVER_RESTART
    assert f"{path}:2: is not JSON" in task.stderr
    assert "Traceback" not in task.stderr


def test_a_full_disk_is_told_in_a_line(tmp_path, small_disk):
    write_pile(tmp_path / "a.jsonl", abstracts())
    (tmp_path / "corpora").symlink_to(small_disk)
    context = make_context(tmp_path)

    task = subprocess.run([sys.executable, "-m", "jobs", context.run.root], capture_output=True, text=True, check=False)

    assert task.returncode == 1
    where = re.escape(str(tmp_path / "corpora" / "corpus.partial"))
    assert re.fullmatch(rf"rank 0 on \S+: No space left on device: {where}/\w+\n", task.stderr)
    assert read_attempts(context.run.ledger)[0].fault == task.stderr.rstrip("\n")


def test_files_that_this_user_may_not_read_are_named_before_any_is_read(stranger):
    for name in ("a", "b", "c"):
        write_pile(stranger / f"{name}.jsonl", ["text"]).chmod(0o644 if name == "a" else 0o000)
    context = make_context(stranger)

    with pytest.raises(LauncherError, match=r"^sources\.0\.files: `.*/b\.jsonl` and 1 more: not for you to read; ask"):
        find_files(context, context.recipe.sources)


def test_a_folder_that_this_user_may_not_write_to_is_named(stranger):
    plan = SimpleNamespace(recipe=make_context(stranger).recipe, work=stranger / "corpora" / "corpus.partial" / "abc")
    plan.work.parent.mkdir(parents=True)

    plan.work.parent.chmod(0o555)
    with pytest.raises(LauncherError, match=r"corpus\.partial/abc: not for you to write; somebody else has begun one"):
        make_work_folder(plan)
    plan.work.parent.rmdir()
    plan.work.parent.parent.chmod(0o555)
    with pytest.raises(LauncherError, match=r"corpus\.partial: not for you to write; ask who owns the folder"):
        make_work_folder(plan)


@pytest.mark.slow
def test_a_killed_prepare_goes_on_and_makes_the_same_bytes(tmp_path):
    for number in range(12):
        texts = [f"{number} {copy} {text}" for copy in range(4) for text in abstracts()[number::4]]
        write_pile(tmp_path / f"{number:02d}.jsonl.zst", texts)
    expected = files_of(prepare(tmp_path).folder)
    os.rename(tmp_path / "corpora", tmp_path / "uninterrupted")
    context = make_context(tmp_path)

    for finished in (1, 5):
        process = start_task(context)
        wait_for(
            lambda wanted=finished: len(list(tmp_path.glob("corpora/*/*/parts/[0-9]*.json"))) >= wanted,
            f"{finished} finished parts",
        )
        workers = children_of(process.pid)
        process.send_signal(signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL
        assert len(workers) == 2
        wait_for(lambda pids=workers: not any(map(is_running, pids)), "the workers to end with their parent")
    assert not (tmp_path / "corpora" / "corpus").exists()
    process = start_task(context)

    assert process.wait() == FINISHED
    assert files_of(tmp_path / "corpora" / "corpus") == expected
    assert os.listdir(tmp_path / "corpora") == ["corpus"]


def test_a_file_of_two_sources_is_refused_unless_they_take_different_things_from_it(tmp_path):
    write_pile(tmp_path / "a.jsonl", ["one", "two"])
    sources = [{"format": "pile", "files": files, "license": "MIT"} for files in ("./*.jsonl", "./a.*")]

    with pytest.raises(LauncherError, match=r"sources\.1\.files: `\S+/a\.jsonl` is a file of sources\.0 as well; make"):
        prepare(tmp_path, sources=sources)

    sources[1]["subsets"] = ["PubMed Central"]
    assert prepare(tmp_path, sources=sources, max_bad_fraction=1).manifest.counts.records == 4


def test_articles_are_read_once_however_sources_read_them(tmp_path):
    write_source(tmp_path / "a.xml", b"<PubmedArticleSet></PubmedArticleSet>")
    sources = [{"format": "medline", "files": "./a.xml", "languages": [code]} for code in ("eng", "fre")]

    with pytest.raises(LauncherError, match=r"sources\.1\.files: `\S+/a\.xml` is a file of sources\.0 as well; make"):
        prepare(tmp_path, sources=sources)


@pytest.mark.parametrize("name", ["b.jsonl", "folder/a.jsonl"])
def test_a_file_that_is_found_a_second_time_by_a_link_is_refused(tmp_path, name):
    (tmp_path / "data").mkdir()
    write_pile(tmp_path / "data" / "a.jsonl", ["one", "two"])
    target = "a.jsonl" if name == "b.jsonl" else "."
    (tmp_path / "data" / name.split("/", maxsplit=1)[0]).symlink_to(target)
    sources = [{"format": "pile", "files": "./data/**/*.jsonl", "license": "MIT"}]

    with pytest.raises(LauncherError, match=rf"`\S+/data/{name}` is the same file as `\S+/data/a\.jsonl`; make one of"):
        prepare(tmp_path, sources=sources)


def test_a_link_to_nothing_is_named(tmp_path):
    write_pile(tmp_path / "a.jsonl", ["one", "two"])
    (tmp_path / "b.jsonl").symlink_to("gone.jsonl")

    with pytest.raises(LauncherError, match=r"sources\.0\.files: `\S+/b\.jsonl` is a link to nothing; put its file"):
        prepare(tmp_path)


def test_a_name_that_no_manifest_can_hold_is_refused_before_its_file_is_read(tmp_path):
    write_pile(tmp_path / os.fsdecode(b"caf\xe9.jsonl"), ["one", "two"])

    with pytest.raises(LauncherError, match=r"sources\.0\.files: '\S+/caf\\udce9\.jsonl' is no name in UTF-8"):
        prepare(tmp_path)


class QuickerRun(StopFlag):
    """Once so many parts are there, another run makes the corpus of that name and clears the work folder away."""

    def __init__(self, context, parts):
        super().__init__()
        self._context, self._parts = context, parts

    def wanted(self, run, *_):
        if self._context is not None and len(list(run.root.parent.glob("corpora/*/*/parts/*.json"))) == self._parts:
            context, self._context = self._context, None
            assert main(context, StopFlag()) == FINISHED
        return False


@pytest.mark.parametrize("parts", [0, 6])
def test_of_two_runs_of_a_recipe_the_slower_one_finds_the_corpus_of_the_other(tmp_path, capsys, parts):
    for number in range(6):
        write_pile(tmp_path / f"{number}.jsonl", abstracts()[number::6])

    assert main(make_context(tmp_path), QuickerRun(make_context(tmp_path), parts)) == FINISHED
    assert main(make_context(tmp_path), StopFlag()) == FINISHED

    assert sum(open_corpus(tmp_path / "corpora" / "corpus").manifest.counts.documents.values()) == 500
    assert (
        "corpus: is there already, made from files of the same names and sizes with the same settings"
        in capsys.readouterr().out
    )
    assert os.listdir(tmp_path / "corpora") == ["corpus"]


@pytest.mark.parametrize("parts", [0, 6])
def test_of_two_recipes_of_one_name_the_slower_one_is_told_that_it_is_taken(tmp_path, parts):
    for number in range(6):
        write_pile(tmp_path / f"{number}.jsonl", abstracts()[number::6])
    other = make_context(tmp_path, validation=0.5)

    with pytest.raises(LauncherError, match="holds a corpus made from other files or settings"):
        main(make_context(tmp_path), QuickerRun(other, parts))


def test_articles_of_the_pile_are_prepared_whole(tmp_path):
    path = shared_data("pubmed/pile/pubmed_central.jsonl.zst")
    with zstandard.open(path, "rt", encoding="utf-8") as file:
        texts = [unicodedata.normalize("NFC", json.loads(line)["text"]) for line in file]
    source = {"format": "pile", "files": "./*.zst", "subsets": ["PubMed Central"], "license": "CC BY"}
    clean = {"normalise": "nfc", "min_characters": 1000, "languages": ["en"], "exact_duplicates": "drop"}
    (tmp_path / path.name).symlink_to(path)

    corpus = prepare(tmp_path, sources=[source], clean=clean | {"near_duplicates": {}}, validation=0)

    counts, encoder = corpus.manifest.counts, load_encoder(str(ASSETS / "stories260k"), "stories260k")
    assert (counts.records, counts.bad_records, counts.dropped, counts.licenses) == (50, 0, {}, {"CC BY": 50})
    assert (len(texts), sum(map(len, texts))) == (50, 2_171_121)
    written = documents_of(corpus, "train")
    assert written == encoder.encode(texts)
    assert min(map(len, written)) > 4 * 2048  # what the source system cut them to


_PEAKS = """\
import resource, sys
from pathlib import Path
from jobs.data.parts import make_part
from jobs.data.plan import make_plan
from tests.preparing import make_context

def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024

plan = make_plan(make_context(Path(sys.argv[1])))
make_part(plan, 0)
before = peak()
part = make_part(plan, 1)
print(sum(part.tally.documents.values()), part.tally.dropped, peak() - before)
"""


def test_one_enormous_document_takes_little_memory(tmp_path):
    text = "\n".join(abstracts())
    write_pile(tmp_path / "0.jsonl", abstracts())
    write_pile(tmp_path / "1.jsonl", ["one", text * 20, "two"])
    assert len(text) * 20 > 16_000_000

    done = subprocess.run([sys.executable, "-c", _PEAKS, str(tmp_path)], capture_output=True, text=True, check=True)

    documents, dropped, mebibytes = re.match(r"(\d+) (\{.*\}) (\d+)$", done.stdout.splitlines()[-1]).groups()
    assert (documents, dropped) == ("2", "{'too_long': 1}")
    assert int(mebibytes) < 300  # tokenised it would take 1,700
