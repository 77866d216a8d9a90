"""Files in the making: what killed processes leave of them goes, what others are still writing stays."""

import multiprocessing
import os
import time
from types import SimpleNamespace

import pytest

from jobs.data.corpus.file_list import corpus_file_list
from jobs.kinds.prepare import main
from jobs.rank.atomic_files import clear_leftovers, staging_path
from tests.support.prepare_runs import abstracts, make_context, write_pile
from tests.support.stops import stopped_by_file

YESTERDAY = time.time() - 25 * 3600


@pytest.mark.slow
def test_an_attempt_begins_without_what_earlier_ones_were_writing(tmp_path):
    write_pile(tmp_path / "a.jsonl", abstracts()[:5])
    context = make_context(tmp_path)
    plan = corpus_file_list(context)
    plan.parts.mkdir(parents=True)
    earlier = multiprocessing.get_context("fork").Process(target=lambda: staging_path(plan.parts / "00000.ds").touch())
    earlier.start()
    earlier.join()
    assert len(os.listdir(plan.parts)) == 1
    context.run.stop_request.touch()

    with stopped_by_file(context.run):
        main(context)

    assert os.listdir(plan.parts) == []


def test_a_living_process_keeps_its_files_however_old_they_are(tmp_path):
    path = staging_path(tmp_path / "00000.ds")
    path.touch()
    os.utime(path, (YESTERDAY, YESTERDAY))

    clear_leftovers(tmp_path)

    assert path.exists()


@pytest.mark.parametrize(("age", "is_there"), [(time.time(), True), (YESTERDAY, False)], ids=["now", "yesterday"])
def test_files_of_other_machines_go_when_nobody_has_written_to_them_for_a_day(tmp_path, monkeypatch, age, is_there):
    with monkeypatch.context() as patch:
        patch.setattr("jobs.rank.atomic_files.os.uname", lambda: SimpleNamespace(nodename="node-1.site.org"))
        paths = [staging_path(tmp_path / name) for name in ("00000.ds", "3")]
    paths[0].touch()
    paths[1].mkdir()
    (paths[1] / "bucket").touch()
    for path in paths:
        os.utime(path, (age, age))

    clear_leftovers(tmp_path)

    assert [path.exists() for path in paths] == [is_there, is_there]


def test_folders_that_others_remove_meanwhile_are_passed_over(tmp_path, monkeypatch):
    (tmp_path / "scratch").mkdir()
    scandir = os.scandir

    def too_late(path):
        if os.fspath(path).endswith("scratch"):
            os.rmdir(path)
        return scandir(path)

    monkeypatch.setattr(os, "scandir", too_late)

    clear_leftovers(tmp_path)

    assert os.listdir(tmp_path) == []


def test_what_is_not_in_the_making_stays(tmp_path):
    names = [".nfs00000000000a1b2c", ".hidden", "00000.ds", "a-1"]
    for name in names:
        (tmp_path / name).touch()
        os.utime(tmp_path / name, (YESTERDAY, YESTERDAY))

    clear_leftovers(tmp_path)

    assert sorted(os.listdir(tmp_path)) == sorted(names)
