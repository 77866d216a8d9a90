"""The time account of a run that is over, as `launcher report` makes it, beside what the clock says."""

import time

from launcher.monitor.time_account import TimeAccount, account_for
from launcher.monitor.traces import kept_limits, read_traces
from launcher.run.ledger import read_attempts
from launcher.run.paths import RunDir
from launcher.run.pauses import read_pauses
from launcher.run.record import RunRecord


def account_of(run: RunDir) -> TimeAccount:
    """The account of a run that is over."""
    attempts, record = read_attempts(run.ledger), RunRecord.read(run.record)
    traces = read_traces(run.metrics, kept_limits(attempts))
    return account_for(record, attempts, traces, read_pauses(run.pauses), time.time(), is_over=True)


def seconds_by_the_clock(run: RunDir) -> float:
    """From the first submission to the moment in which the last line was written into the ledger."""
    return run.ledger.stat().st_mtime - RunRecord.read(run.record).submissions[0].time
