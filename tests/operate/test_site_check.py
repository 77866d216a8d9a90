"""A check of a site: what it measured, judged, and used by `plan`; on real ranks in tests/kinds/test_site_check.py."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

from launcher.artifacts.site_measurements import MEASUREMENTS, Rate, SiteMeasurements, site_folder
from launcher.cluster import Cluster
from launcher.doctor.site_check import SiteCheck, site_check_findings
from launcher.errors import LauncherError
from launcher.operate.site_check import check_site
from launcher.plan.step_time import measured_at
from launcher.recipe import KINDS
from launcher.run.ledger import Attempt, append_event
from launcher.run.paths import RunDir

MEASURED = SiteMeasurements(
    time=1000.0,
    run="site-check-1",
    device="cuda",
    nodes=("a", "b"),
    ranks_per_node=4,
    rendezvous_seconds=31.4,
    clock_skew_seconds=0.002,
    inside=(Rate(bytes=2**20, per_second=20e9), Rate(bytes=2**29, per_second=230e9)),
    between=(Rate(bytes=2**20, per_second=3e9), Rate(bytes=2**29, per_second=48.5e9)),
    write=Rate(bytes=2**31, per_second=2.4e9),
    read=Rate(bytes=2**31, per_second=5.1e9),
    small_files_per_second=912.3,
)
STOPPED = Attempt(0, ended=1065.0, action="requeue", reason="time limit")
RESTARTED = Attempt(1, started=1080.0, ended=1100.0, action="done", reason="finished")
CHECK = SiteCheck("site-check-1", "finished", MEASURED, (STOPPED, RESTARTED), asked=1060.0)


def judged(check: SiteCheck) -> dict[str, tuple[str, str]]:
    return {one.topic: (one.level, one.what) for one in site_check_findings(check)}


def test_a_good_site_is_described_in_numbers() -> None:
    assert judged(CHECK) == {
        "rendezvous": ("ok", "2 nodes x 4 ranks on CUDA: all ranks were together 31 s after the job had started"),
        "inside a node": ("ok", "a rank sends 20 GB/s in messages of 1 MiB, 230 GB/s in messages of 512 MiB"),
        "between nodes": ("ok", "a node sends 3 GB/s in messages of 1 MiB, 48.5 GB/s in messages of 512 MiB"),
        "file system": ("ok", "all nodes together write 2.4 GB/s and read 5.1 GB/s; 912 small files a second"),
        "clocks": ("ok", "of all nodes agree"),
        "stop request": ("ok", "all ranks had left 5 s after it"),
        "requeue": ("ok", "the next attempt started 15 s later"),
    }


@pytest.mark.parametrize(
    ("check", "topic", "level", "said"),
    [
        (replace(CHECK, attempts=(STOPPED,), state="stopped"), "requeue", "problem", "the job was not started again"),
        (replace(CHECK, state="failed"), "requeue", "problem", "the next attempt is failed"),
        (replace(CHECK, asked=None), "stop request", "note", "was not tried"),
        (replace(CHECK, attempts=(Attempt(0),)), "stop request", "problem", "did not end attempt 0"),
        (replace(CHECK, attempts=(STOPPED,), asked_attempt=1), "stop request", "note", "was not tried"),
        (replace(CHECK, asked_attempt=1), "stop request", "note", "was not tried"),
        (
            replace(CHECK, measured=None, state="failed", attempts=(replace(STOPPED, message="no such port"),)),
            "check",
            "problem",
            "the run is failed and measured nothing: no such port",
        ),
        (
            replace(CHECK, measured=MEASURED.model_copy(update={"clock_skew_seconds": 61.0})),
            "clocks",
            "note",
            "differ by 61 s",
        ),
        (
            replace(CHECK, measured=MEASURED.model_copy(update={"write": Rate(bytes=2**31, per_second=9e7)})),
            "file system",
            "note",
            "write 90 MB/s",
        ),
        (
            replace(CHECK, measured=MEASURED.model_copy(update={"write": None})),
            "file system",
            "problem",
            "has no room",
        ),
        (
            replace(CHECK, measured=MEASURED.model_copy(update={"rendezvous_seconds": 400.0})),
            "rendezvous",
            "note",
            "400 s after",
        ),
    ],
)
def test_what_is_wrong_is_said(check: SiteCheck, topic: str, level: str, said: str) -> None:
    found = judged(check)[topic]

    assert found[0] == level
    assert said in found[1]


def test_the_attempt_that_was_asked_is_judged_and_not_one_that_was_preempted_before_it() -> None:
    preempted = Attempt(0, ended=1010.0, action="requeue", reason="preempted")
    attempts = (preempted, replace(STOPPED, number=1), replace(RESTARTED, number=2))

    found = judged(replace(CHECK, attempts=attempts, asked_attempt=1))

    assert found["stop request"] == ("ok", "all ranks had left 5 s after it")
    assert found["requeue"] == ("ok", "the next attempt started 15 s later")


def test_only_an_attempt_that_runs_and_has_measured_is_asked_to_stop(
    tmp_path: Path, make_cluster: Callable[..., Cluster], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Slurm preempts the first attempt when it has measured; its job waits again, and cannot be asked meanwhile."""
    run, told = RunDir(tmp_path / "run"), list[str]()
    run.outputs.mkdir(parents=True)
    (run.outputs / MEASUREMENTS).write_text(MEASURED.model_dump_json())
    append_event(run.ledger, 0, job_id="7", started=1000.0)
    story = iter(
        [
            ("queued", {"number": 0, "ended": 1010.0, "reason": "preempted", "action": "requeue"}),
            ("running", {"number": 0}),  # its batch process has not told of the new attempt yet
            ("queued", {"number": 1, "job_id": "7", "started": 1020.0}),
            ("running", {"number": 1}),
            ("running", {"number": 1, "ended": 1065.0, "reason": "time limit", "action": "requeue"}),
            ("finished", {"number": 2, "started": 1080.0, "ended": 1100.0, "reason": "finished", "action": "done"}),
        ]
    )

    def look(*_: object) -> tuple[list[SimpleNamespace], None]:
        state, event = next(story)
        append_event(run.ledger, event.pop("number"), **event)
        return [SimpleNamespace(state=state, id="ab", why="", is_over=state == "finished", job_id="7")], None

    monkeypatch.setattr("launcher.operate.site_check._queue", lambda *_: run)
    monkeypatch.setattr("launcher.operate.site_check._keep", lambda _: None)
    monkeypatch.setattr("launcher.operate.site_check.read_statuses", look)
    monkeypatch.setattr("launcher.operate.site_check.POLL_SECONDS", 0)
    monkeypatch.setattr("launcher.operate.site_check.warn_batch", lambda job, _: told.append(job))

    check = check_site(Path("r.yaml"), make_cluster(), 2, rehearse=True, on_change=lambda _: None)

    assert (told, check.asked_attempt) == (["7"], 1)


def test_plan_uses_what_was_measured_on_gpus(make_cluster: Callable[..., Cluster]) -> None:
    cluster = make_cluster()
    assert measured_at(cluster) is None
    folder = site_folder(Path(cluster.roots.runs))
    folder.mkdir(parents=True)
    (folder / MEASUREMENTS).write_text(MEASURED.model_dump_json())

    found = measured_at(cluster)

    assert found is not None and (found.network, found.link) == (48.5e9, 230e9)
    (folder / MEASUREMENTS).write_text(MEASURED.model_copy(update={"device": "cpu"}).model_dump_json())
    assert measured_at(cluster) is None


@pytest.mark.parametrize("torn", ["", "{", "[]", '{"time": 1}'])
def test_measurements_that_cannot_be_read_count_as_none(make_cluster: Callable[..., Cluster], torn: str) -> None:
    cluster = make_cluster()
    folder = site_folder(Path(cluster.roots.runs))
    folder.mkdir(parents=True)
    (folder / MEASUREMENTS).write_text(torn)

    assert measured_at(cluster) is None


def test_a_site_without_slurm_is_refused(make_cluster: Callable[..., Cluster]) -> None:
    with pytest.raises(LauncherError, match=r"--submit: cluster profile `test` has no Slurm to check"):
        check_site(Path("r.yaml"), make_cluster(executor="local"), 2, rehearse=True, on_change=print)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"messages": ["64MiB", "1MiB"]}, "messages: are not in order"),
        ({"resources": {"nodes": 1, "gpus_per_node": 1, "time": "10min"}}, "one rank has nobody to send to"),
    ],
)
def test_conflicts(changes: dict[str, object], said: str) -> None:
    recipe = {"kind": "site_check", "name": "c", "resources": {"nodes": 2, "time": "10min"}} | changes

    with pytest.raises(ValueError, match=said):
        KINDS["site_check"].model_validate_json(json.dumps(recipe))
