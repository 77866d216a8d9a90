"""Noting what a run is when an attempt starts, so that a finished one can be found by what it was."""

import sys
from contextlib import suppress

from jobs.rank.context import Context
from launcher.recipe.identity import identify
from launcher.run.identity import describe_changed


def note_identity(context: Context) -> None:
    """Write identity.json; what cannot be looked at is no reason to end a run."""
    if not context.ranks.is_main or context.record.share:
        return
    try:
        found = identify(context.recipe, context.record.locations)
        if found is not None and (changed := found.write(context.run.identity)):
            print(f"warning: {describe_changed(changed)}", file=sys.stderr, flush=True)
    except OSError as error:
        with suppress(OSError):
            context.run.identity.unlink()
        print(f"identity: {error}; this run will not be found as finished", file=sys.stderr, flush=True)
