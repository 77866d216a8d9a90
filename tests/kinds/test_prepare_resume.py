"""kind: prepare, stopped or killed: what is done is kept if nothing has changed."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from dataclasses import replace

import pytest
from transformers import AutoTokenizer

from jobs.data.corpus import source_file as parts
from jobs.data.corpus.file_list import corpus_file_list
from jobs.data.dedup.document_keys import KeyRecorder
from jobs.data.readers import read
from jobs.data.sampling.corpus_reader import open_corpus
from jobs.kinds.prepare import main
from launcher.artifacts.corpus_manifest import MANIFEST, SPLITS
from launcher.errors import LauncherError
from launcher.run.ledger import read_attempts
from launcher.run.paths import FINISHED
from tests.support.corpora import flaws_of
from tests.support.prepare_runs import (
    ASSETS,
    abstracts,
    documents_of,
    files_of,
    make_context,
    prepare,
    write_pile,
)
from tests.support.stops import stopped_after, stopped_by_file
from tests.support.waiting import wait_for

pytestmark = pytest.mark.slow


def test_a_stopped_prepare_goes_on_where_it_was(tmp_path, capsys):
    for number in range(5):
        write_pile(tmp_path / f"{number}.jsonl", abstracts()[number::5])
    context = make_context(tmp_path, resources={"cpus_per_task": 1, "time": "1h"})

    with stopped_after(2):
        main(context)
    (attempt,) = read_attempts(context.run.ledger)
    assert (attempt.first_step, attempt.reason) == (0, "stopped")
    assert 0 < attempt.last_step < 5
    assert not (tmp_path / "corpora" / "corpus").exists()

    main(context)
    assert f"{attempt.last_step} of them done before" in capsys.readouterr().out
    (attempt,) = read_attempts(context.run.ledger)
    assert (attempt.last_step, attempt.reason) == (5, "finished")
    assert os.listdir(tmp_path / "corpora") == ["corpus"]


def test_a_stop_request_before_the_start_starts_nothing(tmp_path):
    write_pile(tmp_path / "a.jsonl", ["text"])
    context = make_context(tmp_path)
    context.run.stop_request.touch()

    with stopped_by_file(context.run):
        main(context)


def test_a_file_that_changed_since_its_part_was_made_is_read_again(tmp_path):
    write_pile(tmp_path / "a.jsonl", ["first"])
    last = write_pile(tmp_path / "b.jsonl", ["other"])
    context = make_context(tmp_path, validation=0, resources={"cpus_per_task": 1, "time": "1h"})
    with stopped_after(1):
        main(context)
    written = last.stat()
    write_pile(tmp_path / "a.jsonl", ["fresh"])
    os.utime(tmp_path / "a.jsonl", ns=(written.st_atime_ns, written.st_mtime_ns + 10**9))

    main(context)

    corpus = open_corpus(tmp_path / "corpora" / "corpus")
    assert flaws_of(corpus.folder) == []
    decode = AutoTokenizer.from_pretrained(ASSETS / "stories260k").decode
    assert decode(documents_of(corpus, "train")[0], skip_special_tokens=True) == "fresh"


def test_a_file_that_somebody_writes_while_it_is_read_ends_the_run(tmp_path, monkeypatch):
    path = write_pile(tmp_path / "a.jsonl", ["one", "two"])
    write_pile(tmp_path / "b.jsonl", ["other"])

    def read_and_write(stream, source):
        yield from read(stream, source)
        if stream.path == path:
            path.write_bytes(2 * path.read_bytes())

    with monkeypatch.context() as patch, pytest.raises(LauncherError, match=r"a\.jsonl: was written while it was read"):
        patch.setattr(parts, "read", read_and_write)
        prepare(tmp_path)

    assert prepare(tmp_path).manifest.counts.records == 5


def test_a_file_that_is_put_back_after_a_kill_is_not_taken_for_what_the_killed_attempt_read(tmp_path, monkeypatch):
    source = write_pile(tmp_path / "a.jsonl", ["first"])
    write_pile(tmp_path / "b.jsonl", ["other"])
    context = make_context(tmp_path, validation=0, resources={"cpus_per_task": 1, "time": "1h"})
    with stopped_after(1):
        main(context)
    written = source.stat()
    write_pile(source, ["fresh"])
    os.utime(source, ns=(written.st_atime_ns, written.st_mtime_ns + 10**9))
    with monkeypatch.context() as patch, pytest.raises(OSError, match="no room"):
        patch.setattr(KeyRecorder, "save", fill_disk)  # shards are in place by then, the record is not
        main(context)
    write_pile(source, ["first"])
    os.utime(source, ns=(written.st_atime_ns, written.st_mtime_ns))

    main(context)

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
    with stopped_after(2):
        main(context)
    newer = replace(context, record=replace(context.record, code_commit="newer"))
    with stopped_after(2):
        main(newer)
    assert "some by other versions of the code (0.1.0 hash)" in capsys.readouterr().out

    main(newer)

    folder = tmp_path / "corpora" / "corpus"
    made = files_of(folder)
    manifest = json.loads(made.pop(MANIFEST))
    assert manifest["code"] == "0.1.0 hash, 0.1.0 newer"
    shutil.rmtree(folder)
    main(newer)
    again = files_of(folder)
    assert json.loads(again.pop(MANIFEST)) == manifest | {"code": "0.1.0 newer"}
    assert again == made


def test_a_part_of_another_licence_or_with_other_settings_is_not_taken_over(tmp_path, capsys):
    for name in "ab":
        write_pile(tmp_path / f"{name}.jsonl", abstracts()[:3])
    one_cpu = {"cpus_per_task": 1, "time": "1h"}
    with stopped_after(1):
        main(make_context(tmp_path, resources=one_cpu))

    for changes in (
        {"sources": [{"format": "pile", "files": "./*.jsonl", "license": "CC0-1.0"}]},
        {"clean": {"min_characters": 7}},
        {"data_use": "credentialed"},
    ):
        with stopped_after(1):
            main(make_context(tmp_path, resources=one_cpu, **changes))
        assert "2 source files, 0 of them done before" in capsys.readouterr().out.splitlines()[-2]


@pytest.mark.parametrize(("lost", "added"), [("train/00000.ds", []), ("00000.npz", ["b"]), ("00000.signatures", ["b"])])
def test_a_part_of_which_a_file_is_lost_is_made_again(tmp_path, capsys, lost, added):
    write_pile(tmp_path / "a.jsonl", abstracts()[:20])
    plan = corpus_file_list(make_context(tmp_path, clean={"near_duplicates": {}}))
    plan.work.mkdir(parents=True)
    parts.process_file(plan, 0)
    (plan.parts / lost).unlink()
    for name in added:
        write_pile(tmp_path / f"{name}.jsonl", abstracts()[20:40])

    corpus = prepare(tmp_path, clean={"near_duplicates": {}})

    assert "0 of them done before" in capsys.readouterr().out
    assert sum(map(corpus.manifest.counts.documents.get, SPLITS)) == 20 + 20 * len(added)


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
