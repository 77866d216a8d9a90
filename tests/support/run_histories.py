"""Run directories with a past, written as `launcher submit` and the jobs would have written them."""

import json
from dataclasses import dataclass, field
from pathlib import Path

from launcher.run.ledger import Action, Reason, append_event
from launcher.run.paths import RunDir, SubmissionDir
from launcher.run.pauses import Pause, PauseKind
from launcher.run.record import RunRecord, Submitted

MIDNIGHT = 1_790_000_000.0
"""When all of this happened; later moments are told in seconds after it."""


@dataclass
class History:
    """A run and what happened to it; each method tells the next event."""

    run: RunDir
    record: RunRecord = field(init=False)

    @classmethod
    def begin(cls, runs: Path, run_id: str = "abc123", name: str = "tiny cpt", length: str = "100 steps") -> "History":
        """Make the run directory of a run that was never queued."""
        history = cls(RunDir(runs / f"{name.replace(' ', '-')}-20260921-120000-{run_id}"))
        history.run.root.mkdir(parents=True)
        history.record = RunRecord(
            *(run_id, name, "cpt", "f" * 64, MIDNIGHT, "code", None, "/recipes", f"w-{run_id}", {})
        )
        history.record.write(history.run.record)
        recipe = {
            "kind": "cpt",
            "data_use": "open",
            "schedule": {"length": length},
            "batch": {"global_batch": "8 sequences", "sequence_length": 128},
        }
        history.run.recipe.write_text(json.dumps(recipe), encoding="utf-8")
        return history

    def submit(self, job_id: str, at: float) -> "History":
        """It is queued."""
        folder = SubmissionDir(self.run.root.parent / ".submissions" / job_id)
        folder.root.mkdir(parents=True, exist_ok=True)
        self.record.submissions.append(Submitted(job_id, str(folder.root), MIDNIGHT + at))
        self.record.write(self.run.record)
        return self

    def start(self, attempt: int, job_id: str, at: float, nodes: tuple[str, ...] = ("a1", "a2")) -> "History":
        """An attempt starts."""
        self.run.attempt_logs(attempt).mkdir(parents=True)
        append_event(*(self.run.ledger, attempt), job_id=job_id, nodes=list(nodes), world_size=4, started=MIDNIGHT + at)
        return self

    def train(self, attempt: int, first: int, last: int, at: float, loss: float = 2.0) -> "History":
        """It resumes from step `first` and logs every step up to `last`, two seconds each."""
        append_event(self.run.ledger, attempt, first_step=first)
        with self.run.metrics.open("a", encoding="utf-8") as metrics:
            for step in range(first + 1, last + 1):
                when = MIDNIGHT + at + 2 * (step - first)
                row = {"time": when, "step": step, "attempt": attempt, "loss": loss, "tokens_per_second": 512.0}
                metrics.write(json.dumps(row) + "\n")
        return self

    def begin_steps(self, attempt: int, at: float) -> "History":
        """Rank 0 has loaded everything and begins with the first step."""
        append_event(self.run.ledger, attempt, began=MIDNIGHT + at)
        return self

    def pause(self, attempt: int, step: int, kind: PauseKind, start: float, end: float) -> "History":
        """Training waits after a step."""
        Pause(attempt, step, kind, MIDNIGHT + end, end - start).append(self.run.pauses)
        return self

    def end(
        self, attempt: int, reason: Reason, action: Action, at: float, last_step: int | None = None, message: str = ""
    ) -> "History":
        """It ends and is judged."""
        append_event(
            *(self.run.ledger, attempt),
            reason=reason,
            action=action,
            ended=MIDNIGHT + at,
            last_step=last_step,
            message=message,
            source="test",
        )
        return self

    def log(self, attempt: int, rank: int, *lines: str) -> Path:
        """A rank prints lines."""
        path = self.run.rank_log(attempt, rank)
        with path.open("a", encoding="utf-8") as log:
            log.writelines(f"{line}\n" for line in lines)
        return path
