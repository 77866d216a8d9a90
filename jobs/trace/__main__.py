"""`python -m jobs.trace`: reads a request on its standard input, and answers with a trace on its standard output.

Exit codes: 0 answered; 78 it cannot be traced, with the reason on standard error; anything else a failure.
"""

import contextlib
import json
import os
import sys
from typing import cast

from jobs.rank.required_packages import require_extras
from launcher.artifacts.trace import TraceRequest
from launcher.errors import LauncherError
from launcher.run.paths import NEVER_RESTART


def main() -> int:
    """Trace the training that the standard input names."""
    try:
        require_extras("--trace", ["train"])
        request = TraceRequest.read(sys.stdin.read())
        with contextlib.redirect_stdout(sys.stderr):  # libraries print as they like
            answer = _answer(request)
    except LauncherError as error:
        print(error, file=sys.stderr)
        return NEVER_RESTART
    print(answer)
    return 0


def _answer(request: TraceRequest) -> str:
    from jobs.rank.library_messages import hide_harmless_messages

    os.environ["HF_HUB_OFFLINE"] = "1"
    hide_harmless_messages()
    from jobs.trace.extrapolate import trace_of
    from jobs.trace.measure import measure
    from launcher.recipe import read_recipe
    from launcher.recipe.kinds.training import TrainingRecipe

    recipe = cast(TrainingRecipe, read_recipe(json.dumps(request.recipe)))
    measured = [measure(recipe, request, layers) for layers in request.traced]
    return trace_of(measured, request.layers).write()


if __name__ == "__main__":
    sys.exit(main())
