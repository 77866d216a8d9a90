"""Letting faults strike a run, one after the other, and bringing it back where a person must."""

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from random import Random

from launcher.devcluster.chaos.draw import Strike
from launcher.devcluster.chaos.fault import ChaosFault, Phase
from launcher.devcluster.chaos.report import Blow, ChaosReport, costs_of
from launcher.devcluster.chaos.target import ChaosTarget
from launcher.errors import LauncherError, RunError, SlurmError

_LOOK, _LOOK_FOR_SAVES = 0.1, 0.002
_ASK_SLURM = 2.0
"""Seconds between two questions to Slurm; a run that is twice in no queue does not come back by itself."""
_TRIES = 10


class Storm:
    """Lets faults strike one run.

    Args:
        target: The run.
        resume: What a person does when the run does not go on by itself.
        say: Called with one line about each fault.
        patience: Seconds after which something that has to happen is given up.
    """

    def __init__(
        self,
        target: ChaosTarget,
        resume: Callable[[], None],
        say: Callable[[str], None] = lambda _: None,
        patience: float = 900,
    ) -> None:
        self._target = target
        self._resume = resume
        self._say = say
        self._patience = patience
        self._blows: list[Blow] = []
        self._asked = 0.0
        self._times_away = 0

    def carry_out(self, strikes: Sequence[Strike], seed: int) -> ChaosReport:
        """Let all faults strike, and wait until the run has finished.

        Raises:
            LauncherError: The run did not come back.
        """
        skipped = []
        for strike in strikes:
            if why := self._strike(strike):
                self._say(f"{strike.fault.name}: {why}")
                skipped.append((strike.fault.name, why))
        self._wait(lambda: self._target.has_finished, "the run finishes")
        attempts, rows = self._target.attempts, self._target.rows
        costs = costs_of(self._blows, attempts, rows)
        return ChaosReport(seed, self._target.last_step, len(attempts), tuple(costs), tuple(skipped))

    def _strike(self, strike: Strike) -> str:
        """Let one fault strike at its moment; say why if it cannot."""
        fault = strike.fault()
        if why := fault.why_not(self._target):
            return why
        phase = self._await_moment(strike)
        if self._target.has_finished:
            return "the run had finished"
        with self._target.held():
            attempt, step = self._target.attempts[-1].number, self._target.last_step
            try:
                rng = Random(strike.seed)  # noqa: S311 - it has to be repeatable
                what = fault.inject(self._target, rng)
            except BaseException:
                self._undo(fault)
                raise
            self._blows.append(Blow(fault.name, phase, what, time.time(), attempt, step))
        self._say(f"step {step}, {phase}: {what}")
        try:
            self._await_effect(fault)
        finally:
            self._undo(fault)
        return ""

    def _await_moment(self, strike: Strike) -> Phase:
        """Wait for the moment of a fault; return the phase that the run is then in."""
        if strike.phase == "starting":
            self._wait(self._is_starting_or_trains, f"an attempt starts, for {strike.fault.name}")
            if not self._has_begun():
                return "starting"
        self._wait(lambda: self._trains_at(strike), f"the moment of {strike.fault.name}")
        if strike.phase == "saving":
            # A busy machine may let this process sleep through a save; then the fault strikes right after it.
            before = self._target.newest_checkpoint
            self._wait(lambda: self._saves_or_has_saved(before), "a checkpoint is being written", _LOOK_FOR_SAVES)
            return "saving" if self._target.is_saving else "training"
        return "training"

    def _is_starting_or_trains(self) -> bool:
        return bool(self._target.attempts) and self._target.batch_process() is not None and bool(self._target.ranks())

    def _has_begun(self) -> bool:
        return self._target.attempts[-1].began is not None

    def _trains_at(self, strike: Strike) -> bool:
        attempts, rows = self._target.attempts, self._target.rows
        if not attempts or not rows or rows[-1]["attempt"] != attempts[-1].number or attempts[-1].ended is not None:
            return False
        before = self._blows[-1].step if self._blows else 0
        reached = max(before + 1, int(strike.part * (attempts[-1].total_steps or 0)))
        has_checkpoint = not strike.fault.needs_checkpoint or self._target.newest_checkpoint is not None
        return self._target.last_step >= reached and has_checkpoint and bool(self._target.ranks())

    def _saves_or_has_saved(self, before: Path | None) -> bool:
        return self._target.is_saving or self._target.newest_checkpoint != before

    def _await_effect(self, fault: ChaosFault) -> None:
        if fault.until == "attempt over":
            self._wait(self._is_attempt_over, f"the attempt ends, after {fault.name}", tends=False)
        elif fault.until == "steps again":
            struck = self._blows[-1].attempt
            self._wait(lambda: self._is_past(struck) or self._is_at_rest(), "steps are done again", tends=False)
        elif fault.until == "at rest":
            self._wait(self._is_at_rest, f"the run gives up, after {fault.name}", tends=False)
        else:
            time.sleep(fault.until)

    def _is_attempt_over(self) -> bool:
        return self._target.batch_process() is None

    def _is_past(self, attempt: int) -> bool:
        """Tell whether a later attempt has done a step."""
        rows = self._target.rows
        return bool(rows) and int(rows[-1]["attempt"]) > attempt

    def _undo(self, fault: ChaosFault) -> None:
        """Take a fault back, also when slurmctld is too busy to answer at once."""
        for _ in range(_TRIES - 1):
            try:
                return fault.undo(self._target)
            except SlurmError as error:
                self._say(str(error))
                time.sleep(_ASK_SLURM)
        return fault.undo(self._target)

    def _wait(self, condition: Callable[[], bool], what: str, pause: float = _LOOK, tends: bool = True) -> None:
        """Wait until something is so, or the run has finished; resume the run when it does not go on by itself."""
        deadline = time.monotonic() + self._patience
        while not condition() and not (tends and self._is_over()):
            if time.monotonic() > deadline:
                raise LauncherError(f"chaos: gave up after {self._patience:g} s of waiting until {what}")
            time.sleep(pause)

    def _is_over(self) -> bool:
        """Look after the run now and then; tell whether it has finished."""
        if time.monotonic() - self._asked < _ASK_SLURM:
            return False
        self._asked = time.monotonic()
        if self._target.has_finished:
            return True
        if self._is_at_rest():
            try:
                self._resume()
            except RunError as not_yet:
                self._say(f"{not_yet}")
            else:
                self._say("resumed, as a person would")
                self._times_away = 0
                if self._blows:
                    self._blows[-1].resumed += 1
        return False

    def _is_at_rest(self) -> bool:
        """Tell whether the run does not go on by itself, twice in a row: between two jobs it is in no queue."""
        try:
            is_away = not self._target.is_queued() or self._target.is_on_hold()
        except SlurmError:
            return False
        self._times_away = self._times_away + 1 if is_away else 0
        return self._times_away > 1
