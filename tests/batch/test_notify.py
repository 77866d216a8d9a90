"""Whom the batch process tells what, and that nothing of it can harm a run."""

import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, get_args

import pytest
from pydantic import ValidationError

from jobs.batch import notify
from jobs.batch.allocation import BatchJob
from jobs.batch.notify import Event, Notifier, event_of
from jobs.batch.restart_policy import RestartDecision
from launcher.cluster import Cluster
from launcher.load import load_cluster
from launcher.run.ledger import Reason
from launcher.run.paths import RunDir, SubmissionDir
from launcher.run.record import CorpusShare, RunRecord
from tests.support.counting_runs import Play, run_batch, stage, summary, write_run
from tests.support.webhook_server import Webhook, webhook

WEBHOOK = {"webhook": "HOOK", "events": list(get_args(Event))}


@pytest.fixture
def hook() -> Iterator[Webhook]:
    with webhook() as heard:
        yield heard


@pytest.fixture
def job(tmp_path: Path, make_cluster: Callable[..., Cluster], hook: Webhook) -> Callable[..., BatchJob]:
    def make(data_use: str = "open", environ: dict[str, str] | None = None, **profile: Any) -> BatchJob:
        run = RunDir(tmp_path / "run")
        recipe = {**Play().recipe.model_dump(mode="json"), "data_use": data_use}
        write_run(run, recipe, make_cluster(**{"notify": WEBHOOK, **profile}))
        told = {"HOOK": hook.address} if environ is None else environ
        return BatchJob(SubmissionDir(tmp_path), run, recipe, RunRecord.read(run.record), told, local=True)

    return make


def tell(job: BatchJob, event: Event = "finished", detail: str = "step 4 is safe") -> list[str]:
    said: list[str] = []
    notifier = Notifier(job)
    notifier.tell(event, detail, said.append)
    notifier.wait()
    return said


def test_a_webhook_is_told_in_slacks_words(job: Callable[..., BatchJob], hook: Webhook) -> None:
    assert tell(job(), "failed", "exit code 1 <of> rank 0 & others") == []

    assert hook.texts == ["run (run): failed: exit code 1 &lt;of&gt; rank 0 &amp; others"]


def test_of_a_credentialed_run_only_its_id_and_its_state_are_told(
    job: Callable[..., BatchJob], hook: Webhook, tmp_path: Path
) -> None:
    secret = job("credentialed", notify={**WEBHOOK, "command": ["/bin/sh", "-c", f"env > {tmp_path}/seen"]})
    tell(RenamedJob.of(secret), "requeued", "patient 17")

    assert hook.texts == ["run run: requeued"]
    seen = (tmp_path / "seen").read_text()
    assert "LAUNCHER_TEXT=run run: requeued" in seen and "patient" not in seen and "ward" not in seen


class RenamedJob(BatchJob):
    """A job whose run has a telling name."""

    @classmethod
    def of(cls, job: BatchJob) -> BatchJob:
        job.record.name = "ward 3"
        return job


def test_the_address_may_be_in_the_secrets_file(job: Callable[..., BatchJob], hook: Webhook, tmp_path: Path) -> None:
    (tmp_path / "secrets").write_text(f"OTHER=1\nHOOK={hook.address}\n")
    (tmp_path / "secrets").chmod(0o600)

    assert tell(job(environ={}, secrets_file=str(tmp_path / "secrets"))) == []
    assert len(hook.texts) == 1


def test_a_webhook_that_refuses_is_one_line_in_the_log_without_its_address(
    job: Callable[..., BatchJob], hook: Webhook
) -> None:
    hook.code = 404

    assert tell(job()) == ["notify: finished was not told: webhook: answered 404"]


@pytest.mark.parametrize("address", ["", "file:///etc/passwd", "http://[sEcReT", "http://sEcReT:port/"])
def test_an_address_that_is_none_is_not_written_either(job: Callable[..., BatchJob], address: str) -> None:
    [said] = tell(job(environ={"HOOK": address}))

    assert said.startswith("notify: finished was not told: ") and "sEcReT" not in said and "passwd" not in said


def test_nobody_there(job: Callable[..., BatchJob]) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]

    [said] = tell(job(environ={"HOOK": f"http://127.0.0.1:{port}/"}))
    assert said == "notify: finished was not told: webhook: Connection refused"


def test_one_that_never_answers_is_given_up(
    job: Callable[..., BatchJob], hook: Webhook, monkeypatch: pytest.MonkeyPatch
) -> None:
    hook.may_answer.clear()
    monkeypatch.setattr(notify, "WEBHOOK_SECONDS", 0.2)

    [said] = tell(job())
    assert said.startswith("notify: finished was not told: webhook: ") and "timeout" in said.lower()


def test_the_process_does_not_wait_forever(
    job: Callable[..., BatchJob], hook: Webhook, monkeypatch: pytest.MonkeyPatch
) -> None:
    hook.may_answer.clear()
    monkeypatch.setattr(notify, "WAIT_SECONDS", 0.1)

    assert tell(job()) == []  # while the webhook still does not answer
    assert not hook.may_answer.is_set()


def test_a_command_finds_what_happened_in_its_environment(job: Callable[..., BatchJob], tmp_path: Path) -> None:
    command = ["/bin/sh", "-c", 'echo "$LAUNCHER_EVENT|$LAUNCHER_RUN|$LAUNCHER_TEXT" > "$0"', str(tmp_path / "a b")]

    assert tell(job(notify={"command": command})) == []
    assert (tmp_path / "a b").read_text() == "finished|run|run (run): finished: step 4 is safe\n"


def test_a_command_that_fails_hangs_or_is_missing_is_told_of(
    job: Callable[..., BatchJob], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(notify, "COMMAND_SECONDS", 0.1)
    run = job()
    said = []
    for command in (["/bin/false"], ["/bin/sleep", "300"], ["/no/such"]):
        run.record.cluster["notify"] = {"command": command, "events": ["finished"]}
        said += tell(run)

    assert [line.removeprefix("notify: finished was not told: ") for line in said] == [
        "/bin/false: exit code 1", "/bin/sleep: ended after 0.1 s", "/no/such: No such file or directory",
    ]  # fmt: skip


def test_only_what_is_wanted_is_told_and_of_tasks_only_failures(job: Callable[..., BatchJob], hook: Webhook) -> None:
    run = job(notify={"webhook": "HOOK", "events": ["finished", "failed"]})
    tell(run, "started")
    tell(run, "finished", "")
    run.record.share = CorpusShare(0, 2)
    tell(run, "finished")
    tell(run, "failed", "")

    assert hook.texts == ["run (run): finished", "run (run): failed"]


@pytest.mark.parametrize(
    ("reason", "action", "event"),
    [
        ("finished", "done", "finished"),
        ("preempted", "requeue", "requeued"),
        ("error", "resubmit", "requeued"),
        ("does_not_fit", "restart", None),
        ("stopped", "stop", "stopped"),
        ("preempted", "stop", "stopped"),
        ("error", "stop", "failed"),
        ("bad_recipe", "stop", "failed"),
        ("pruned", "stop", None),
    ],
)
def test_what_an_end_means_for_a_run(reason: Reason, action: Any, event: Event | None) -> None:
    assert event_of(reason, RestartDecision(action, "")) == event


def test_a_profile_that_holds_the_address_itself_is_refused_without_repeating_it(tmp_path: Path) -> None:
    profile = tmp_path / "cluster.yaml"
    roots = "name: here\nroots: {runs: r, corpora: c, models: m}\n"
    # In two parts, so that no scanner takes this file for a leak.
    profile.write_text(f"{roots}notify:\n  webhook: https://hooks.slack.{'com'}/services/T0/B0/sEcReT\n")
    with pytest.raises(Exception, match=r"cluster\.yaml:4: notify\.webhook") as refused:
        load_cluster(str(profile))

    assert "sEcReT" not in str(refused.value)


def test_a_profile_that_tells_nobody_is_refused(make_cluster: Callable[..., Cluster]) -> None:
    with pytest.raises(ValidationError, match="nobody is told"):
        make_cluster(notify={"events": ["failed"]})


@pytest.mark.slow
def test_a_run_is_told_of_from_its_start_to_its_end(
    tmp_path: Path, make_cluster: Callable[..., Cluster], hook: Webhook
) -> None:
    cluster = make_cluster(executor="local", gpus={"device": "cpu"}, notify=WEBHOOK)
    submission, [run] = stage(tmp_path / "staged", cluster, [Play(acts={"0": {"at_step": 1, "exit_code": 1}})])

    code, said = run_batch(submission, HOOK=hook.address)

    assert code == 0, said
    assert summary(run) == [("error", "requeue"), ("finished", "done")]
    assert [text.split(":")[1] for text in sorted(hook.texts)] == [" finished", " requeued", " started", " started"]
    assert any("no step is safe yet" in text for text in hook.texts)
    written = [path.read_text() for path in run.root.rglob("*") if path.suffix in (".log", ".json", ".jsonl")]
    # The stand-ins for ranks write their whole environment into seen-*.json, which real ranks never do.
    assert "sEcReT" not in said + "".join(text for text in written if '"environ"' not in text)
