"""kind: site_check - measure the network and the file system, then wait to be stopped once.

The first attempt measures, writes down what it measured, and waits. When it is asked to stop, it leaves as a training
would, and the next attempt, if the site starts one, finds the measurements and finishes.
"""

import time

from jobs.rank.atomic_files import write_durably
from jobs.rank.context import Context
from jobs.rank.probes import measure_messages, measure_skew, measure_small_files, measure_storage
from jobs.rank.process_group import RankGroup, process_group
from jobs.rank.stop_flag import STOP, StopRequested, noting_stop
from launcher.artifacts.site_measurements import MEASUREMENTS, SiteMeasurements, measurements_of_run
from launcher.recipe import SiteCheckRecipe
from launcher.run.ledger import append_event, read_attempts

POLL_SECONDS = 0.5


def main(context: Context) -> None:
    """Measure what the recipe says, unless an earlier attempt has, and wait for a stop request in the first one.

    Raises:
        StopRequested: there was one.
    """
    recipe, run = context.recipe, context.run
    assert isinstance(recipe, SiteCheckRecipe)
    with process_group(context) as group:
        if group.is_main:
            append_event(run.ledger, context.attempt, first_step=0, total_steps=1)
        if not group.from_main(measurements_of_run(run) is not None):
            measured = _measure(context, recipe, group)
            if group.is_main:
                write_durably(run.outputs / MEASUREMENTS, measured.model_dump_json(indent=1) + "\n")
            with noting_stop(context):
                _wait_for_stop(recipe, group)
        if group.is_main:
            append_event(run.ledger, context.attempt, last_step=1, reason="finished", source="site_check")


def _measure(context: Context, recipe: SiteCheckRecipe, group: RankGroup) -> SiteMeasurements:
    """Measure everything; all ranks return the same."""
    joined = time.time()
    [attempt] = [one for one in read_attempts(context.run.ledger) if one.number == context.attempt]
    skew = measure_skew(group)
    inside, between = measure_messages(group, context.ranks, [size.bytes for size in recipe.messages])
    write, read = measure_storage(group, context.run.root, recipe.file.bytes)
    return SiteMeasurements(
        time=joined,
        run=context.run.root.name,
        device=group.device.type,
        nodes=tuple(attempt.nodes),
        ranks_per_node=context.ranks.local_world_size,
        rendezvous_seconds=joined - attempt.started,
        clock_skew_seconds=skew,
        inside=inside,
        between=between,
        write=write,
        read=read,
        small_files_per_second=measure_small_files(group, context.run.root, recipe.small_files),
    )


def _wait_for_stop(recipe: SiteCheckRecipe, group: RankGroup) -> None:
    print(f"measured; waiting up to {recipe.wait} for a stop request", flush=True)
    until = time.monotonic() + recipe.wait.seconds
    while True:
        is_wanted, is_over = group.any(STOP.is_requested(), time.monotonic() > until)
        if is_wanted:
            raise StopRequested
        if is_over:
            return
        time.sleep(POLL_SECONDS)
