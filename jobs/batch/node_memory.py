"""What an attempt tells later jobs of its nodes: which failed the preflight check, hung, or were slow."""

import time
from collections.abc import Callable, Iterator

from jobs.batch.allocation import BatchJob
from jobs.batch.evidence import EndReason, Evidence
from launcher.run.stragglers import read_stragglers
from launcher.run.suspects import NodeReport, Trouble, report_node


def remember_nodes(job: BatchJob, evidence: Evidence, end: EndReason, say: Callable[[str], None]) -> None:
    """Report nodes that gave trouble, unless it was all of them; nothing that fails here harms the run.

    Args:
        job: This start of the batch process.
        evidence: What is known of the attempt.
        end: Why it ended.
        say: Told what is remembered.
    """
    if job.local or not job.slurm_options.get("remember"):
        return
    attempt = evidence.attempt
    found = dict(_troubles(job, evidence, end))
    if len(found) == len(attempt.nodes) > 1:  # probably not their fault
        return
    for node, trouble in found.items():
        report = NodeReport(node, trouble, time.time(), job.record.id, attempt.number)
        try:
            report_node(job.submission.root.parents[1], report)  # beside `.submissions`
            say(f"{node} {trouble}: remembered, see `launcher nodes list`")
        except OSError as error:
            say(f"{node} {trouble}: cannot be remembered: {error}")


def _troubles(job: BatchJob, evidence: Evidence, end: EndReason) -> Iterator[tuple[str, Trouble]]:
    """Give nodes with what they did; of several things the last one counts."""
    attempt = evidence.attempt
    for straggler in read_stragglers(job.run.stragglers(attempt.number)):
        yield straggler.node, "was slow"
    if end.reason == "hang":
        for node in evidence.hung:
            yield node, "hung"
    if end.source == "preflight":
        is_only = len(attempt.nodes) == 1
        for node in end.unfit:
            yield node, "failed the preflight check as the only node" if is_only else "failed the preflight check"
