"""kind: prepare in several tasks: who makes which parts, and that the corpus is the one of a single task."""

import json
import os
import subprocess
import sys
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pexpect
import pytest

from jobs.data.corpus.shard_writer import ShardWriter
from jobs.data.sampling.corpus_reader import open_corpus
from jobs.kinds import prepare as prepare_module
from jobs.kinds.prepare import main
from jobs.rank import progress_rows as progress_module
from jobs.rank import worker_pool as workers
from jobs.rank.deal import deal
from jobs.rank.stop_flag import STOP, StopRequested
from launcher.errors import LauncherError
from launcher.run.ledger import StopRequest, read_attempts, read_json_lines
from launcher.run.paths import RunDir, list_shares
from tests.support.corpora import flaws_of
from tests.support.prepare_runs import ASSETS, Group, abstracts, files_of, make_context, write_pile
from tests.support.stops import stopped_after
from tests.support.waiting import PATIENCE

pytestmark = pytest.mark.slow


def write_sources(folder, files=7):
    folder.mkdir(exist_ok=True)
    for number in range(files):
        write_pile(folder / f"{number}.jsonl.zst", abstracts()[number * number : (number + 1) ** 2])
    return folder


def in_one_task(folder):
    context = make_context(write_sources(folder))
    main(context)
    return shards_of(folder / "corpora" / "corpus")


def shards_of(corpus):
    """All files of a corpus, the manifest without the code version and the sources' folder."""
    files = files_of(corpus)
    manifest = json.loads(files.pop("manifest.json"))
    for source in manifest["sources"]:
        source["path"] = source["path"].rpartition("/")[2]
    return files | {"manifest.json": manifest}


@pytest.mark.parametrize("tasks", [2, 3, 20])
def test_any_number_of_tasks_makes_the_corpus_of_one(tmp_path, tasks):
    group = Group(write_sources(tmp_path / "shared"), tasks)

    for index in reversed(range(tasks)):
        main(group.share(index))
        assert not group.corpus.exists()
    main(group.last)

    assert shards_of(group.corpus) == in_one_task(tmp_path / "alone")
    assert not group.work.exists()
    assert flaws_of(group.corpus) == []


def test_a_share_makes_its_parts_only_and_tells_of_them(tmp_path):
    group = Group(write_sources(tmp_path / "shared"), tasks=3)
    context = group.share(1)

    main(context)

    mine = deal([path.stat().st_size for path in sorted((tmp_path / "shared").glob("*.zst"))], 3)[1]
    made = sorted(int(path.stem) for path in group.work.glob("*/parts/*.json"))
    [attempt] = read_attempts(context.run.ledger)
    assert made == sorted(mine)
    assert (attempt.first_step, attempt.last_step, attempt.total_steps) == (0, len(mine), len(mine))
    assert attempt.reason == "finished"


def test_the_last_run_makes_what_lost_tasks_did_not(tmp_path, capsys):
    group = Group(write_sources(tmp_path / "shared"), tasks=3)
    main(group.share(0))
    capsys.readouterr()

    main(group.last)

    mine = deal([path.stat().st_size for path in sorted((tmp_path / "shared").glob("*.zst"))], 3)[0]
    assert f"7 source files, {len(mine)} of them done before" in capsys.readouterr().out
    assert shards_of(group.corpus) == in_one_task(tmp_path / "alone")


def test_the_last_run_names_records_that_the_tasks_could_not_read(tmp_path, capsys):
    group = Group(write_sources(tmp_path, files=2), tasks=2, max_bad_fraction=0.5)
    (tmp_path / "2.jsonl").write_text('{"text": "fine"}\nPlanted\n')
    for index in range(2):
        main(group.share(index))
    capsys.readouterr()

    main(group.last)

    said = capsys.readouterr().out
    assert f"3 source files, 3 of them done before\n    {tmp_path}/2.jsonl:2: is not JSON" in said
    assert "Planted" not in said


def test_a_share_of_a_published_corpus_has_nothing_to_do(tmp_path):
    group = Group(write_sources(tmp_path / "shared"), tasks=2)
    main(group.last)
    before = files_of(group.corpus)

    with STOP.heeding(lambda: pytest.fail("there was something to do")):
        main(group.share(1))

    assert files_of(group.corpus) == before
    assert not group.work.exists()


def test_a_share_that_is_overtaken_by_the_last_run_leaves_the_corpus_alone(tmp_path, monkeypatch):
    group = Group(write_sources(tmp_path / "shared"), tasks=2)
    process_file = prepare_module.process_file

    def be_overtaken(plan, number, gauge=None):
        monkeypatch.setattr(prepare_module, "process_file", process_file)
        main(group.last)  # in a worker process, while the share waits for its part
        return process_file(plan, number, gauge)

    monkeypatch.setattr(prepare_module, "process_file", be_overtaken)
    main(group.share(0))

    assert shards_of(group.corpus) == in_one_task(tmp_path / "alone")
    assert not group.work.exists()


def test_what_another_run_writes_while_the_corpus_is_published_stays_out_of_it(tmp_path, monkeypatch):
    context, rename = make_context(write_sources(tmp_path / "here")), os.rename

    def rename_late(source, target):
        if Path(target).name == "corpus":
            (Path(source) / ".manifest.json.other-1").write_text("{")
        rename(source, target)

    with monkeypatch.context() as patch:
        patch.setattr(os, "rename", rename_late)
        main(context)

    assert shards_of(tmp_path / "here" / "corpora" / "corpus") == in_one_task(tmp_path / "alone")


def test_a_share_whose_folder_is_cleared_away_is_finished_only_if_the_corpus_is(tmp_path, monkeypatch):
    group = Group(write_sources(tmp_path / "shared"), tasks=2)

    def clear_away(plan, number, gauge=None):
        raise FileNotFoundError(2, "No such file or directory", str(plan.record(number)))

    with monkeypatch.context() as patch, pytest.raises(FileNotFoundError):
        patch.setattr(prepare_module, "process_file", clear_away)
        main(group.share(0))


def test_a_stopped_share_goes_on_where_it_was(tmp_path):
    group = Group(write_sources(tmp_path / "shared"), 2, resources={"cpus_per_task": 1, "time": "1h"})
    context = group.share(0)

    with stopped_after(2):
        main(context)
    [attempt] = read_attempts(context.run.ledger)
    assert (attempt.reason, 0 < attempt.last_step < attempt.total_steps) == ("stopped", True)
    context = replace(context, attempt=1)
    main(context)

    _, second = read_attempts(context.run.ledger)
    assert (second.first_step, second.last_step) == (attempt.last_step, attempt.total_steps)


def test_runs_of_a_group_agree_on_the_files_that_the_first_one_found(tmp_path):
    sources = write_sources(tmp_path / "shared")
    group = Group(sources, tasks=2)
    main(group.share(0))
    write_pile(sources / "8.jsonl.zst", ["new"])
    write_pile(sources / "5.jsonl.zst", ["other"])
    (sources / "3.jsonl.zst").unlink()

    for context in (group.share(1), group.last):
        with pytest.raises(LauncherError) as caught:
            main(context)
        assert "new: `8.jsonl.zst`; gone: `3.jsonl.zst`; of another size: `5.jsonl.zst`" in str(caught.value)
        assert str(caught.value).endswith("or submit the recipe again, which keeps what was made of unchanged files")
        assert "`launcher resume run`, or submit the recipe again" in str(caught.value)
    assert len(list(group.work.iterdir())) == 1


@pytest.mark.parametrize(("content", "stops"), [("", True), ('{"reason": "time_limit", "attempt": 0}', False)])
def test_a_stop_file_in_the_folder_of_the_group_stops_its_tasks_and_keeps_them_from_coming_back(
    tmp_path, content, stops
):
    group = Group(write_sources(tmp_path / "shared"), tasks=2)
    group.last.run.stop_request.write_text(content)
    share = group.share(0)

    with pytest.raises(StopRequested) if stops else nullcontext():
        main(share)

    assert StopRequest.read(share.run.stop_request) == (StopRequest() if stops else None)


def test_a_file_that_changed_but_for_its_size_is_read_again_and_told_of(tmp_path, capsys):
    sources = write_sources(tmp_path / "shared")
    group = Group(sources, tasks=2)
    main(group.share(0))
    path = sources / "6.jsonl.zst"
    os.utime(path, ns=(0, path.stat().st_mtime_ns + 1))

    main(group.last)

    assert "changed since and done again: 1" in capsys.readouterr().out


def test_progress_is_told_in_files_and_bytes(tmp_path):
    sources = write_sources(tmp_path / "shared")
    group = Group(sources, tasks=1)
    total = sum(path.stat().st_size for path in sources.glob("*.zst"))

    main(group.last)

    rows = [row for row in read_json_lines(group.last.run.metrics) if "phase" not in row]
    assert [(row["step"], row["bytes"]) for row in (rows[0], rows[-1])] == [(0, 0), (7, total)]
    assert {row["bytes_total"] for row in rows} == {total}
    assert rows[-1]["tokens"] == sum(open_corpus(group.corpus).manifest.counts.tokens.values())


def test_what_follows_the_reading_is_told_in_steps(tmp_path):
    sources = write_sources(tmp_path / "shared")
    clean = {"near_duplicates": {"buckets": 3, "hashes": 2}}
    context = make_context(sources, clean=clean, resources={"cpus_per_task": 1, "time": "1h"})

    main(context)

    rows = [row for row in read_json_lines(context.run.metrics) if "phase" in row]
    told = [(row["phase"], row["phase_done"], row["phase_total"]) for row in rows]
    searched = [("near duplicates", done, 4) for done in range(4)]
    assert told == [*searched, *(("merging", done, 2) for done in range(3))]
    assert {(row["step"], row["bytes"] == row["bytes_total"] > 0) for row in rows} == {(7, True)}


def test_one_large_file_moves_the_progress(tmp_path, monkeypatch):
    monkeypatch.setattr(progress_module, "ROW_SECONDS", 0.0)
    monkeypatch.setattr(workers, "_LOOK_SECONDS", 0.05)
    write_pile(tmp_path / "a.jsonl", abstracts() * 8)
    context = make_context(tmp_path)

    main(context)

    rows = read_json_lines(context.run.metrics)
    between = [row["bytes"] for row in rows if row["step"] == 0 and row["bytes"]]
    assert between and between[0] < rows[-1]["bytes_total"]


def test_processes_of_the_same_number_on_two_machines_do_not_disturb_each_other(tmp_path, monkeypatch):
    machine = SimpleNamespace(nodename="one")
    monkeypatch.setattr("jobs.rank.atomic_files.os.uname", lambda: machine)
    writers = []
    for machine.nodename in ("one", "two"):
        writers.append(ShardWriter(tmp_path, "a.ds", "uint16"))
        writers[-1].write([[1, 2, 3], [4, 5]])

    made = [writer.close() for writer in writers]

    assert made[0] == made[1]
    assert (tmp_path / "a.ds").stat().st_size == 10
    assert sorted(os.listdir(tmp_path)) == ["a.ds", "a.ds.index"]


RECIPE = """\
kind: prepare
name: array
corpus: {corpus}
sources: [{{format: pile, files: "./*.jsonl.zst"}}]
tokenizer: stories260k
tasks: {tasks}
resources: {{cpus_per_task: 1, time: 10min}}
"""


@pytest.mark.slow
def test_without_slurm_tasks_follow_each_other(tmp_path):
    sources = write_sources(tmp_path / "sources")
    roots = f"{{runs: {tmp_path}/runs, data: {tmp_path}, corpora: {tmp_path}/corpora, models: {ASSETS}}}"
    profile = sources / "local.yaml"
    profile.write_text(f"name: here\nexecutor: local\nroots: {roots}\n")
    for tasks in (1, 3):
        recipe = sources / f"{tasks}.yaml"
        recipe.write_text(RECIPE.format(tasks=tasks, corpus=f"in-{tasks}"))
        argv = [sys.executable, "-m", "launcher", "submit", recipe, "--cluster", profile, "--wait", "--json"]
        done = subprocess.run(argv, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr

    [run] = json.loads(done.stdout)["runs"]
    shares = list_shares(RunDir(Path(run["folder"])))
    starts = [read_attempts(member.ledger)[0].started for member in (*shares, RunDir(Path(run["folder"])))]
    assert starts == sorted(starts)
    assert [share["id"] for share in run["tasks"]] == [share.root.name for share in shares]
    made = [shards_of(tmp_path / "corpora" / name) for name in ("in-1", "in-3")]
    assert [corpus["manifest.json"].pop("corpus") for corpus in made] == ["in-1", "in-3"]
    assert made[0] == made[1]


def test_a_terminal_gets_a_bar(tmp_path):
    write_pile(tmp_path / "a.jsonl", abstracts())
    make_context(tmp_path)
    code = (
        "import sys; from pathlib import Path; from jobs.kinds.prepare import main\n"
        "from jobs.rank.ranks import Ranks\n"
        "from jobs.rank.context import load_context; from launcher.run.paths import RunDir\n"
        "main(load_context(RunDir(Path(sys.argv[1])), 0, Ranks(0, 1, 0, 1, 0)))"
    )
    argv = ["-c", code, str(tmp_path / "run")]
    terminal = pexpect.spawn(
        sys.executable, argv, use_poll=True, encoding="utf-8", timeout=PATIENCE, dimensions=(40, 80)
    )

    terminal.expect(r"0/1 files .*━")
    terminal.expect(r"1/1 files .*?━")
    terminal.expect(r"merging .*?━.*?2/2")
    terminal.expect(pexpect.EOF)


@pytest.mark.parametrize("subsets", [["a", "b"], ["a", "bb"]], ids=str)
def test_a_subset_may_be_in_the_files_of_one_share_and_must_be_in_those_of_some(tmp_path, subsets):
    for name in ("a", "b"):
        records = [{"text": f"{number} {name}.", "meta": {"pile_set_name": name}} for number in range(30)]
        write_pile(tmp_path / f"{name}.jsonl", records)
    group = Group(tmp_path, 2, sources=[{"format": "pile", "files": "./*.jsonl", "subsets": subsets}])
    exists = subsets == ["a", "b"]

    for index in range(2):
        main(group.share(index))
    with nullcontext() if exists else pytest.raises(LauncherError, match=r"`bb` .* `b` \(30 records"):
        main(group.last)

    assert group.corpus.exists() == exists
