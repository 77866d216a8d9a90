"""What a whole process costs: the CPU seconds of it and of all that it starts and awaits."""

import resource
import subprocess
from pathlib import Path

ROOT = Path(__file__).parents[2]


def cpu_seconds(command: list[str], environment: dict[str, str]) -> float:
    """Run a command to its end, in the root of the project, and return its CPU seconds."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{' '.join(command[:4])}: {done.stderr[-2000:]}")
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
