"""Telling people how a run is doing: the webhook and the command of the profile's `notify`.

Nothing here harms the run: messages are sent beside the work, each has a time limit, and what fails is one line in the
log. The address of a webhook is a secret, so it is never written, and neither is what an error says of it.
"""

import html
import json
import os
import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from threading import Thread
from typing import Any, Literal, TypeAlias

from jobs.batch.allocation import BatchJob
from jobs.batch.restart_policy import FREE, RestartDecision
from launcher.run.ledger import Reason
from launcher.run.paths import expand
from launcher.run.secrets_file import SecretsFileError, read_secrets
from launcher.run.slurm_text import without_overrides

Event: TypeAlias = Literal["started", "requeued", "stopped", "finished", "failed"]

WEBHOOK_SECONDS = 10
COMMAND_SECONDS = 30
WAIT_SECONDS = 20
"""How long the batch process stays for messages that are under way; Slurm gives one that it ends 30 s (KillWait)."""


def event_of(reason: Reason, decision: RestartDecision) -> Event | None:
    """Say what the end of an attempt means for its run; None if that is no news.

    It is none if the run goes on in the same job, or is a trial that its search left behind: most trials end so.
    """
    if decision.action == "restart" or (decision.action == "stop" and reason == "pruned"):
        return None
    if decision.action in ("requeue", "resubmit"):
        return "requeued"
    if decision.action == "done":
        return "finished"
    return "stopped" if reason in FREE | {"stopped"} else "failed"


class Notifier:
    """Tells what happens to one run.

    Args:
        job: This start of the batch process; the `notify` of its profile says whom to tell what.
    """

    def __init__(self, job: BatchJob) -> None:
        self._job = job
        self._wanted: Mapping[str, Any] = job.record.cluster.get("notify") or {}
        self._threads: list[Thread] = []

    def tell(self, event: Event | None, detail: str, say: Callable[[str], object]) -> None:
        """Send a message, beside whatever this process does next.

        Args:
            event: What happened.
            detail: More about it; left out of messages about credentialed runs.
            say: Takes a line for the log if it fails.
        """
        # Of the tasks that work for a run only failures are news.
        is_news = self._job.record.share is None or event == "failed"
        if event is None or event not in self._wanted.get("events", ()) or not is_news:
            return
        text = message(self._job, event, detail)
        for send in (self._call_webhook, self._run_command):
            thread = Thread(target=_carefully, args=(send, event, text, say), daemon=True)
            thread.start()
            self._threads.append(thread)

    def wait(self) -> None:
        """Stay until all messages are sent, but not for long."""
        deadline = time.monotonic() + WAIT_SECONDS
        for thread in self._threads:
            thread.join(max(0.0, deadline - time.monotonic()))

    def _call_webhook(self, _: Event, text: str) -> str:
        name = self._wanted.get("webhook")
        if not name:
            return ""
        from urllib.error import HTTPError  # most runs tell nobody, and need not import this
        from urllib.request import Request, urlopen

        address = _find_secret(name, self._job)
        if not address.startswith(("https://", "http://")):
            return f"webhook: {name} is not set on {os.uname().nodename}, or holds no web address"
        body = json.dumps({"text": html.escape(text, quote=False)}).encode()
        request = Request(address, body, {"Content-Type": "application/json"})  # noqa: S310 - checked above
        try:
            with urlopen(request, timeout=WEBHOOK_SECONDS):  # noqa: S310 - checked above
                return ""
        except HTTPError as error:
            return f"webhook: answered {error.code}"
        except OSError as error:
            reason = getattr(error, "reason", error)
            return f"webhook: {getattr(reason, 'strerror', None) or type(reason).__name__}"

    def _run_command(self, event: Event, text: str) -> str:
        argv: Sequence[str] = self._wanted.get("command") or ()
        if not argv:
            return ""
        told = {"LAUNCHER_EVENT": event, "LAUNCHER_RUN": self._job.record.id, "LAUNCHER_TEXT": text}
        environ, nothing = without_overrides(self._job.environ) | told, subprocess.DEVNULL
        try:
            process = subprocess.Popen(
                argv, env=environ, stdin=nothing, stdout=nothing, stderr=nothing, start_new_session=True
            )
        except OSError as error:
            return f"{argv[0]}: {error.strerror}"
        try:
            code = process.wait(COMMAND_SECONDS)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            return f"{argv[0]}: ended after {COMMAND_SECONDS} s"
        return f"{argv[0]}: exit code {code}" if code else ""


def message(job: BatchJob, event: Event, detail: str) -> str:
    """Write the message: of a credentialed run its id and its state alone."""
    if job.recipe["data_use"] == "credentialed":
        return f"run {job.record.id}: {event}"
    return f"{job.record.name} ({job.record.id}): {event}{f': {detail}' if detail else ''}"


def _find_secret(name: str, job: BatchJob) -> str:
    if value := job.environ.get(name):
        return value
    file = job.record.cluster.get("secrets_file")
    return read_secrets(expand(file)).get(name, "") if file else ""


def _carefully(send: Callable[[Event, str], str], event: Event, text: str, say: Callable[[str], object]) -> None:
    try:
        wrong = send(event, text)
    except SecretsFileError as error:
        wrong = str(error)
    except Exception as error:  # whatever it is, the run goes on; its text may hold the address
        wrong = f"{send.__name__.strip('_')}: {type(error).__name__}"
    if wrong:
        say(f"notify: {event} was not told: {wrong}")
