"""`python -m jobs.runtime.interactive SUBMISSION_DIR [--local] [--shell]`: one attempt with a person watching.

The counterpart of `jobs.runtime.batch` for `launcher debug`: same rendezvous, environment, srun and entry point, but
rank 0 has the terminal, nothing comes back by itself, and nobody calls it a hang when a person sits at a
breakpoint. Standard library only.
"""

import argparse
import os
import shlex
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from jobs.runtime import slurm
from jobs.runtime.attempt import Journal, open_attempt
from jobs.runtime.job import Job, StartRefusedError, find_job
from jobs.runtime.local import LocalTasks, start_task, task_environment
from jobs.runtime.rendezvous import UnresolvableError
from jobs.runtime.srun import ContainerError, contained, srun_argv, srun_environment
from jobs.runtime.supervise import prepare_launch
from jobs.runtime.tasks import Launch
from jobs.runtime.terminal import OtherRanks, run_on_terminal
from launcher.ledger import append_event, read_attempts
from launcher.paths import SubmissionDir, published_steps

_GRACE_SECONDS = 5


def main(argv: Sequence[str] | None = None) -> int:
    """Carry out one attempt in the foreground, or open a shell in its environment; return the exit code."""
    options = _parse(argv)
    try:
        environ = dict(os.environ) if options.local else _of_job(os.environ, options.nodes)
        job = find_job(SubmissionDir(options.submission.absolute()), environ, options.local)
        return _shell(job) if options.shell else _attempt(job)
    except (StartRefusedError, UnresolvableError, ContainerError) as error:
        _say(f"{error}")
        return error.exit_code if isinstance(error, StartRefusedError) else 1


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m jobs.runtime.interactive", description="Debug one run.")
    parser.add_argument("submission", type=Path, help="folder of the submission")
    parser.add_argument("--local", action="store_true", help="start the tasks as processes of this machine")
    parser.add_argument("--shell", action="store_true", help="open a shell instead of starting the tasks")
    parser.add_argument("--nodes", type=int, help="use this many nodes of the allocation; all by default")
    return parser.parse_args(argv)


def _of_job(environ: Mapping[str, str], nodes: int | None) -> dict[str, str]:
    """Make the environment of the whole allocation from that of a step, which tells srun of the step's nodes only.

    Args:
        environ: The environment of the step that this process is.
        nodes: How many nodes the run wants; more of them stay unused.
    """
    job_id = environ["SLURM_JOB_ID"]
    allocated = slurm.show_job(job_id).get("NodeList") or environ["SLURM_JOB_NODELIST"]
    names = slurm.hostnames(allocated)[:nodes]
    return slurm.outside_job(environ) | {"SLURM_JOB_ID": job_id, "SLURM_JOB_NODELIST": ",".join(names)}


def _say(message: str) -> None:
    print(message, file=sys.stderr, flush=True)


def _shell(job: Job) -> int:
    """Open a shell with what the tasks would get, and say how to start them."""
    number = max((attempt.number for attempt in read_attempts(job.run.ledger)), default=-1) + 1
    launch = prepare_launch(job, number, _say)
    again = [sys.executable, "-m", "jobs.runtime.interactive", str(job.submission.root)]
    again += ["--local"] if job.local else [f"--nodes={launch.nodes}"]
    _say(
        f"shell on {os.uname().nodename}, with PYTHONPATH, MASTER_ADDR, MASTER_PORT and the rest of the run exported\n"
        f"start the ranks:  {shlex.join(again)}\n"
        f"leave:            exit"
    )
    shell = os.environ.get("SHELL", "/bin/bash")
    return subprocess.run([shell, "-i"], env=_environment(launch, job), cwd=job.run.root, check=False).returncode


def _attempt(job: Job) -> int:
    attempt = open_attempt(job)
    say = Journal(job.run.batch_log(attempt.number))
    say(f"attempt {attempt.number} of {job.run.root.name}, interactive: job {job.id} on {', '.join(job.nodes)}")
    code = 1
    try:
        launch = prepare_launch(job, attempt.number, say)
        code = _run_local(launch, say) if job.local else _run_slurm(launch, job)
    finally:
        _close(job, attempt.number, code)
    return code


def _close(job: Job, number: int, code: int) -> None:
    finished = any(one.number == number and one.reason == "finished" for one in read_attempts(job.run.ledger))
    append_event(
        job.run.ledger,
        number,
        ended=time.time(),
        exit_code=code,
        last_step=max(published_steps(job.run), default=None),
        reason="finished" if finished else "stopped",
        action="done" if finished else "stop",
        source="launcher debug",
        message=f"debugging ended with exit code {code}",
    )


def _run_slurm(launch: Launch, job: Job) -> int:
    has_terminal = sys.stdin.isatty() and sys.stdout.isatty()
    argv = debug_srun_argv(launch, job.nodes, has_terminal)
    environ = _environment(launch, job)
    if has_terminal:
        return run_on_terminal(argv, environ, launch.run.root, _others(launch).read, _main_log(launch))
    with subprocess.Popen(argv, env=environ, cwd=launch.run.root, stdin=subprocess.DEVNULL) as srun:
        return _watch(launch, srun)


def _run_local(launch: Launch, say: Callable[[str], None]) -> int:
    if not (sys.stdin.isatty() and sys.stdout.isatty()):
        return _watch_local(launch, say)
    processes = [start_task(launch, rank) for rank in range(1, launch.world_size)]
    try:
        environ = task_environment(launch, 0)
        return run_on_terminal(launch.command, environ, launch.run.root, _others(launch).read, _main_log(launch))
    finally:
        _end(processes)


def _watch(launch: Launch, process: "subprocess.Popen[bytes]") -> int:
    """Print what all ranks write into their logs while a process lives."""
    ranks = _others(launch, first=0)
    while process.poll() is None:
        time.sleep(0.1)
        _print_all(ranks.read())
    _print_all(ranks.read())
    return process.returncode if process.returncode >= 0 else 128 - process.returncode


def _watch_local(launch: Launch, say: Callable[[str], None]) -> int:
    tasks, ranks = LocalTasks(launch, say), _others(launch, first=0)
    while (outcome := tasks.poll()) is None:
        time.sleep(0.1)
        _print_all(ranks.read())
    _print_all(ranks.read())
    return outcome.exit_code


def _print_all(lines: list[str]) -> None:
    for line in lines:
        print(line, flush=True)


def debug_srun_argv(launch: Launch, nodes: Sequence[str], has_terminal: bool) -> list[str]:
    """Write the srun command of the batch process, but with rank 0 on the terminal if there is one."""
    words = srun_argv(launch)
    at = len(words) - len(contained(launch))
    while words[at].startswith("--container"):
        at += 1
    options, command = words[:at], words[at:]
    options += ["--overlap", f"--nodelist={','.join(nodes)}"]
    if not has_terminal:
        return [*options, *command]
    options = [word for word in options if not word.startswith(("--output=", "--open-mode="))]
    # pyxis runs the whole command inside the image, apptainer only what follows it.
    python = sys.executable if command[0] == "apptainer" else launch.command[0]
    wrapper = [python, "-m", "jobs.runtime.rank_log", str(launch.run.root), str(launch.attempt)]
    return [*options, "--pty", *wrapper, *command]


def _environment(launch: Launch, job: Job) -> dict[str, str]:
    return {**os.environ, **launch.exports} if job.local else srun_environment(launch, job.environ)


def _others(launch: Launch, first: int = 1) -> OtherRanks:
    return OtherRanks({rank: launch.run.rank_log(launch.attempt, rank) for rank in range(first, launch.world_size)})


def _main_log(launch: Launch) -> Path:
    return launch.run.rank_log(launch.attempt, 0)


def _end(processes: "Sequence[subprocess.Popen[bytes]]") -> None:
    """End ranks that were left behind; SIGTERM only asks them to save at the next step."""
    for process in processes:
        process.terminate()
    deadline = time.monotonic() + _GRACE_SECONDS
    for process in processes:
        try:
            process.wait(max(0.0, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


if __name__ == "__main__":
    sys.exit(main())
