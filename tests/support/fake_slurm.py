"""Executables named like Slurm's, for tests of quoting, arguments, exit codes and the environment.

What they got lies in files, so that tests look at what a real program would have seen. They keep a queue: `sbatch`
adds to it, `scancel` takes out of it, `squeue` prints it, all of it waiting. Anything about scheduling belongs to
tests/slurm, where there is a real Slurm.
"""

import json
import os
import shlex
import sys
from dataclasses import dataclass
from pathlib import Path

_PROGRAM = """#!{python} -ISs
import json, os, shlex, sys, time
from pathlib import Path

state = Path({state!r})
name, argv = Path(sys.argv[0]).name, sys.argv[1:]
call = len(list(state.glob(name + ".*.json"))) + 1
(state / f"{{name}}.{{call:04d}}.json").write_text(json.dumps({{"argv": argv, "environment": dict(os.environ)}}))
while (state / f"{{name}}.{{call}}.held").exists():
    time.sleep(0.02)
failure = state / f"{{name}}.{{call}}.fails"
queue = state / "queue"

def directives(script):
    lines = [line.removeprefix("#SBATCH --") for line in script.split("\\n") if line.startswith("#SBATCH --")]
    return dict(shlex.split(line)[0].partition("=")[::2] for line in lines)

def submit(script):
    job = str(1000 + call)
    options = directives(script) | dict(word.removeprefix("--").partition("=")[::2] for word in argv[:-1])
    ranges = [part.partition("-") for part in options.get("array", "").partition("%")[0].split(",") if part]
    indices = [i for first, _, last in ranges for i in range(int(first), int(last or first) + 1)]
    ids = [f"{{job}}_{{i}}" for i in indices] or [job]
    limit, there = (state / "submit_limit").read_text(), len(queue.read_text().splitlines())
    if limit and there + len(ids) > int(limit):
        sys.exit("sbatch: error: AssocMaxSubmitJobLimit\\nsbatch: error: Batch job submission failed: Job violates "
                 "accounting/QOS policy (job submit limit, user's size and/or time limits)")
    with queue.open("a") as file:
        file.writelines(f"{{id}}|{{options.get('comment', '')}}|{{options.get('chdir', '')}}\\n" for id in ids)
    (state / f"{{job}}.sh").write_text(script)
    return job

if failure.exists():
    text, queued = json.loads(failure.read_text())
    if queued:
        submit(Path(argv[-1]).read_text())
    sys.exit(text)
if name == "sbatch" and "--test-only" in argv:
    (state / "asked.sh").write_text(sys.stdin.read())
    start = "2026-01-02T03:04:05 using 32 processors on nodes n[1-2] in partition gpu"
    print("sbatch: Job 7 to start at", start, file=sys.stderr)
elif name == "sbatch":
    print((state / "banner").read_text() + submit(Path(argv[-1]).read_text()))
elif name == "squeue" and "--format=%i|%T|%S|%e|%N|%r" in argv:
    for line in queue.read_text().splitlines():
        print(line.partition("|")[0] + "|PENDING|N/A|N/A||Priority")
elif name == "squeue" and "--format=%i" in argv:
    for line in queue.read_text().splitlines():
        print(line.partition("|")[0])
elif name == "squeue":
    print(queue.read_text(), end="")
elif name == "scancel":
    with queue.open() as file:
        rows = list(file)
    queue.write_text("".join(row for row in rows if row.partition("|")[0].partition("_")[0] not in argv))
elif name == "scontrol" and argv[:2] == ["show", "partition"]:
    print((state / "partitions").read_text(), end="")
elif name == "scontrol":
    print("Configuration data as of 2026-01-01T00:00:00")
    print("MaxArraySize            =", (state / "array_size").read_text())
    print("SchedulerParameters     =", (state / "scheduler").read_text())
elif name in ("sinfo", "sacctmgr"):
    print((state / name).read_text(), end="")
"""


@dataclass(frozen=True)
class Call:
    """One call of a fake command."""

    argv: list[str]
    environment: dict[str, str]


@dataclass(frozen=True)
class FakeSlurm:
    """The state behind the fake commands."""

    bin: Path
    state: Path

    @classmethod
    def install(cls, folder: Path) -> "FakeSlurm":
        """Write the commands; the caller puts `bin` on PATH."""
        fake = cls(folder / "bin", folder / "state")
        fake.bin.mkdir(parents=True)
        fake.state.mkdir()
        # No link to it: that may lie in a folder whose name has a space, which the kernel takes for its end.
        text = _PROGRAM.format(python=os.path.realpath(sys.executable), state=str(fake.state))
        for name in ("sbatch", "squeue", "scancel", "scontrol", "sinfo", "sacctmgr"):
            (fake.bin / name).write_text(text, encoding="utf-8")
            (fake.bin / name).chmod(0o755)
        for name in ("queue", "banner", "scheduler", "sinfo", "sacctmgr", "partitions", "submit_limit"):
            (fake.state / name).touch()
        fake.limit_arrays(1001)
        return fake

    def limit_arrays(self, max_array_size: int) -> None:
        """Set the site's MaxArraySize."""
        (self.state / "array_size").write_text(str(max_array_size), encoding="utf-8")

    def limit_jobs(self, most: int, account: str) -> None:
        """Set the MaxSubmitJobs of the user's association."""
        (self.state / "submit_limit").write_text(str(most), encoding="utf-8")
        self.answer("sacctmgr", f"{account}||||{most}\n")

    def limit_tasks(self, max_array_tasks: int) -> None:
        """Set the site's SchedulerParameters=max_array_tasks."""
        words = f"bf_continue,max_array_tasks={max_array_tasks},nohold_on_prolog_fail"
        (self.state / "scheduler").write_text(words, encoding="utf-8")

    def print_banner(self, text: str) -> None:
        """Make sbatch print something before the job id, as wrappers of some sites do."""
        (self.state / "banner").write_text(text, encoding="utf-8")

    def answer(self, command: str, text: str) -> None:
        """Set what sinfo, sacctmgr or `scontrol show partition` ("partitions") prints; nothing at first."""
        (self.state / command).write_text(text, encoding="utf-8")

    def fail(self, command: str, call: int, message: str, queued: bool = False) -> None:
        """Make one call fail; with `queued` the job gets into the queue all the same."""
        (self.state / f"{command}.{call}.fails").write_text(json.dumps([message, queued]), encoding="utf-8")

    def hold(self, command: str, call: int) -> Path:
        """Make one call wait until the file that is returned is removed."""
        held = self.state / f"{command}.{call}.held"
        held.touch()
        return held

    def was_called(self, command: str, call: int) -> bool:
        """Tell whether a command was called so many times."""
        return (self.state / f"{command}.{call:04d}.json").exists()

    def calls(self, command: str) -> list[Call]:
        """What a command was called with, in order."""
        return [Call(**json.loads(path.read_text())) for path in sorted(self.state.glob(f"{command}.*.json"))]

    def script(self, job_id: str) -> str:
        """The script of a job as sbatch read it."""
        return (self.state / f"{job_id}.sh").read_text(encoding="utf-8")

    def asked_script(self) -> str:
        """The script that `sbatch --test-only` was asked about last."""
        return (self.state / "asked.sh").read_text(encoding="utf-8")

    def forget(self, *jobs: str) -> None:
        """Take jobs out of the queue, as if they had ended."""
        with (self.state / "queue").open(encoding="utf-8") as rows:
            kept = [row for row in rows if row.partition("|")[0] not in jobs]
        (self.state / "queue").write_text("".join(kept), encoding="utf-8")

    def queue(self) -> list[str]:
        """Ids of the queued jobs."""
        with (self.state / "queue").open(encoding="utf-8") as rows:
            return [row.partition("|")[0] for row in rows]


def directives(script: str) -> dict[str, str]:
    """Read the `#SBATCH` lines of a script; a flag's value is empty."""
    lines = [line.removeprefix("#SBATCH --") for line in script.split("\n") if line.startswith("#SBATCH --")]
    return dict(shlex.split(line)[0].partition("=")[::2] for line in lines)
