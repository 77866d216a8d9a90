"""kind: prepare, and which files it finds, may read and may write."""

import errno
import os
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from jobs.data.corpus.file_list import find_files, matching
from jobs.data.corpus.source_files import make_work_folder
from launcher.errors import LauncherError
from launcher.run.ledger import read_attempts
from tests.support.prepare_runs import (
    abstracts,
    make_context,
    prepare,
    write_pile,
    write_source,
)

pytestmark = pytest.mark.slow


def test_sources_that_match_no_file_are_named(tmp_path):
    with pytest.raises(LauncherError, match=r"sources\.0\.files: `\./\*\.jsonl\*` matches no file .*; correct it"):
        prepare(tmp_path)


def test_files_of_other_compression_are_named_before_any_is_read(tmp_path):
    write_pile(tmp_path / "a.jsonl", ["one"])
    for name in ("b.jsonl.lz4", "c.jsonl.ZIP"):
        write_source(tmp_path / name, b"")

    with pytest.raises(LauncherError, match=r"files: `\S+/b\.jsonl\.lz4` and 1 more: unknown compression; unpack"):
        prepare(tmp_path)


def test_folders_named_like_patterns_are_found(tmp_path):
    folder = tmp_path / "run [1] *"
    folder.mkdir()
    write_pile(folder / "a.jsonl", ["text"])

    assert prepare(folder, validation=0).manifest.counts.records == 1
    sources = [{"format": "pile", "files": "a.jsonl", "license": "MIT"}]
    assert prepare(folder, validation=0, sources=sources).manifest.counts.records == 1


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

    with pytest.raises(LauncherError, match=r"^sources\.0\.files: `.*/b\.jsonl` and 1 more: permission denied; ask"):
        find_files(context, context.recipe.sources)


def test_a_folder_that_this_user_may_not_write_to_is_named(stranger):
    plan = SimpleNamespace(recipe=make_context(stranger).recipe, work=stranger / "corpora" / "corpus.partial" / "abc")
    plan.work.parent.mkdir(parents=True)

    plan.work.parent.chmod(0o555)
    with pytest.raises(LauncherError, match=r"corpus\.partial/abc: permission denied; another user is making one"):
        make_work_folder(plan)
    plan.work.parent.rmdir()
    plan.work.parent.parent.chmod(0o555)
    with pytest.raises(LauncherError, match=r"corpus\.partial: permission denied; ask who owns the folder"):
        make_work_folder(plan)


def test_a_file_system_that_can_only_be_read_is_named(tmp_path, monkeypatch):
    plan = SimpleNamespace(recipe=make_context(tmp_path).recipe, work=tmp_path / "corpora" / "corpus.partial" / "abc")

    def fail(self, *_, **__):
        raise OSError(errno.EROFS, "Read-only file system", str(self))

    monkeypatch.setattr(Path, "mkdir", fail)

    with pytest.raises(LauncherError, match=r"/abc: the file system is read-only; ask who owns the folder, or set ano"):
        make_work_folder(plan)


def test_a_file_of_two_sources_is_refused_unless_they_take_different_things_from_it(tmp_path):
    write_pile(tmp_path / "a.jsonl", ["one", "two"])
    sources = [{"format": "pile", "files": files, "license": "MIT"} for files in ("./*.jsonl", "./a.*")]

    with pytest.raises(LauncherError, match=r"sources\.1\.files: `\S+/a\.jsonl` is a file of sources\.0 as well; make"):
        prepare(tmp_path, sources=sources)

    write_pile(tmp_path / "a.jsonl", [{"text": text, "meta": {"pile_set_name": "PubMed Central"}} for text in "ab"])
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

    with pytest.raises(LauncherError, match=r"sources\.0\.files: `\S+/b\.jsonl` links to a file that does not exist"):
        prepare(tmp_path)


def test_a_link_into_a_closed_folder_is_named(stranger):
    (stranger / "closed").mkdir()
    write_pile(stranger / "closed" / "a.jsonl", ["one", "two"])
    (stranger / "b.jsonl").symlink_to("closed/a.jsonl")
    (stranger / "closed").chmod(0)
    context = SimpleNamespace(data_glob=lambda files: str(stranger / files))

    with pytest.raises(LauncherError, match=r"files: `\S+/b\.jsonl` links to a file in a folder that is closed to you"):
        matching(context, "files", "*.jsonl")


def test_a_name_that_no_manifest_can_hold_is_refused_before_its_file_is_read(tmp_path):
    write_pile(tmp_path / os.fsdecode(b"caf\xe9.jsonl"), ["one", "two"])

    with pytest.raises(LauncherError, match=r"sources\.0\.files: '\S+/caf\\udce9\.jsonl' is not a name in UTF-8"):
        prepare(tmp_path)
