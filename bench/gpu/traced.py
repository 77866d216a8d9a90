"""What `launcher plan --trace` says about a training, beside which its memory is measured."""

import json
import sys

from bench.gpu.our_job import loaded_recipe
from bench.gpu.trainings import Training, options_of_program
from launcher.plan.trace import trace


def main() -> int:
    """Trace, and answer."""
    parser = options_of_program(__doc__)
    parser.add_argument("training")
    options = parser.parse_args()
    loaded, cluster = loaded_recipe(Training.read(options.training), options.work, options.device, options.smallest)
    found = trace(loaded, cluster, full=False)
    print(json.dumps({"memory": found.total, "parts": found.memory, "place": found.place}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
