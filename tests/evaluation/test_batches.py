"""Numbered batches: whoever works on them, and wherever they are stopped, the rows are the same."""

import contextlib
import errno
import json
import os
import shutil
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jobs.evaluation import batches as batches_module
from jobs.evaluation.batches import Batches, BatchFolder, carry_out, cut
from jobs.rank.process_group import RankGroup
from jobs.rank.stop_flag import STOP, StopRequested
from launcher.errors import LauncherError
from launcher.run.record import CorpusShare
from tests.support.evaluation_runs import evaluation

TASK = {"type": "choice", "name": "t", "format": "choice", "files": "./q.jsonl"}


class Counted:
    """Stands for the progress of a run."""

    def __init__(self):
        self.items = 0

    def tell(self, task, items):
        assert task == "task"
        self.items = items


class Group(RankGroup):
    """One of several ranks that do not meet; what would be agreed on is given."""

    def any(self, *claims):
        return claims

    def from_main(self, value):
        return value

    def barrier(self):
        pass


def rank(number, world):
    return Group(number, world, True, None, None)


def batches_of(lengths, log):
    def work(numbers):
        log.extend(numbers)
        return [{"item": number, "value": number * 0.1} for number in numbers]

    return Batches("task", "0123456789abcdef0", cut(lengths, 20), work)


@given(lengths=st.lists(st.integers(0, 50), min_size=1, max_size=40), capacity=st.integers(1, 100))
def test_every_item_is_in_one_batch_and_no_batch_is_too_large(lengths, capacity):
    batches = cut(lengths, capacity)

    assert sorted(item for batch in batches for item in batch) == [*range(len(lengths))]
    for batch in batches:
        assert len(batch) == 1 or len(batch) * max(lengths[item] for item in batch) <= capacity
    longest = [max(lengths[item] for item in batch) for batch in batches]
    assert longest == sorted(longest, reverse=True)


@settings(max_examples=40, deadline=None)
@given(
    lengths=st.lists(st.integers(1, 20), min_size=1, max_size=30),
    shares=st.integers(1, 5),
    stops=st.lists(st.tuples(st.integers(0, 4), st.integers(0, 6)), max_size=8),
)
def test_no_item_is_missing_or_done_twice_whatever_is_stopped_where(tmp_path_factory, lengths, shares, stops):
    folder = tmp_path_factory.mktemp("run")
    context, log = evaluation(folder, TASK), []
    batches = batches_of(lengths, log)
    store = BatchFolder(folder / "batches", batches)

    for share, looks in stops:  # array elements that are preempted after some batches
        left = iter(range(looks))
        share_of = replace(context, record=replace(context.record, share=CorpusShare(share % shares, shares)))
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(STOP, "is_requested", lambda left=left: next(left, None) is None)
            with contextlib.suppress(StopRequested):
                carry_out(share_of, rank(0, 1), store, batches, Counted())
    progress = Counted()
    carry_out(context, rank(0, 1), store, batches, progress)  # the run that completes them

    assert sorted(log) == [*range(len(lengths))]
    assert store.read() == [{"item": number, "value": number * 0.1} for number in range(len(lengths))]
    assert progress.items == len(lengths)
    shutil.rmtree(folder)


def test_ranks_share_the_batches(tmp_path):
    context, logs = evaluation(tmp_path, TASK), [[], []]
    every = [batches_of([5] * 40, log) for log in logs]

    for number, batches in enumerate(every):
        store = BatchFolder(tmp_path / f"rank-{number}", batches)
        carry_out(context, rank(number, 2), store, batches, Counted())

    assert sorted(logs[0] + logs[1]) == [*range(40)]
    assert len(logs[0]) == len(logs[1]) == 20


@pytest.mark.parametrize("content", ["", '{"item": 0}\n{"ite', '{"item": 7}\n'])
def test_a_damaged_batch_is_named(tmp_path, content):
    batches = batches_of([5, 5, 5, 5], [])
    store = BatchFolder(tmp_path, batches)
    store.write(0, batches.work([0, 1, 2, 3]))
    (path,) = tmp_path.rglob("*.jsonl")
    path.write_text(content)

    with pytest.raises(LauncherError, match=r"000000\.jsonl: .*remove it and resume"):
        store.read()


def test_batches_of_other_items_or_models_are_not_taken_over(tmp_path):
    batches = batches_of([5], [])
    BatchFolder(tmp_path, batches).write(0, [{"item": 0}])

    assert BatchFolder(tmp_path, batches).done() == {0}
    assert BatchFolder(tmp_path, replace(batches, identity="another-identity-0")).done() == frozenset()


def test_numbers_survive_the_file_exactly(tmp_path):
    batches = batches_of([5], [])
    values = [0.1 + 0.2, -1e-300, float("inf"), 12345678.123456789]
    BatchFolder(tmp_path, batches).write(0, [{"item": 0, "values": values}])

    assert BatchFolder(tmp_path, batches).read() == [{"item": 0, "values": json.loads(json.dumps(values))}]
    assert BatchFolder(tmp_path, batches).read()[0]["values"] == values


@pytest.mark.parametrize("sign", [*"\u2028\u2029\x85\x0b\x0c\x1c\x1d\x1e\r\n", "\r\n"])
def test_texts_survive_the_file_whatever_sign_ends_a_line_elsewhere(tmp_path, sign):
    batches = batches_of([5], [])
    BatchFolder(tmp_path, batches).write(0, [{"item": 0, "text": f"one{sign}two"}])

    assert BatchFolder(tmp_path, batches).read() == [{"item": 0, "text": f"one{sign}two"}]


def test_a_full_disk_names_the_folder(tmp_path, monkeypatch):
    def fail(path, text):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(batches_module, "write_durably", fail)
    batches = batches_of([5], [])

    with pytest.raises(OSError, match="No space left on device") as error:
        BatchFolder(tmp_path, batches).write(0, [{"item": 0}])
    assert error.value.filename == str(tmp_path / "task-0123456789abcdef")


def test_a_file_system_that_fails_is_no_damaged_batch(tmp_path, monkeypatch):
    """What counts as damaged ends the run for good, and its message has the batch removed."""
    batches = Batches("task", "0123456789abcdef0", [[0]], lambda numbers: [{"item": number} for number in numbers])
    folder = BatchFolder(tmp_path, batches)
    folder.write(0, batches.work([0]))

    def fail(self):
        raise OSError(errno.ESTALE, os.strerror(errno.ESTALE), str(self))

    with monkeypatch.context() as patched, pytest.raises(OSError, match="Stale file handle"):
        patched.setattr("pathlib.Path.read_bytes", fail)
        folder.read()

    assert folder.read() == [{"item": 0}]
