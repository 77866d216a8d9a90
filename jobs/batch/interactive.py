"""`python -m jobs.batch.interactive SUBMISSION_DIR [--local] [--shell]`: one attempt with a person watching.

The counterpart of `jobs.batch.main` for `launcher debug`: same rendezvous, environment, srun and entry point, but
one rank has the terminal, nothing is restarted, and no hang is looked for, since a person may sit at a breakpoint.
"""

import argparse
import os
import shlex
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from jobs.batch import slurm
from jobs.batch.allocation import BatchJob, StartRefusedError, find_job
from jobs.batch.attempt import Journal, close_attempt, open_attempt, read_history
from jobs.batch.evidence import EndReason
from jobs.batch.launch import Launch, prepare_launch
from jobs.batch.local_ranks import LocalRanks, place_of, rank_environment
from jobs.batch.placeholder import tell_end
from jobs.batch.rendezvous import UnresolvableError
from jobs.batch.restart_policy import RestartDecision
from jobs.batch.srun import ContainerError, contained, srun_argv, srun_environment
from jobs.batch.terminal import OtherRanks, run_on_terminal
from launcher.run.batch_process import DEBUGGER, INTERACTIVE_MODULE, START_SECONDS
from launcher.run.ledger import Attempt, read_attempts
from launcher.run.paths import SubmissionDir
from launcher.run.slurm_text import outside_job

_GRACE_SECONDS = 5
_LOOK_SECONDS = 0.1
_PATIENCE_SECONDS = 7 * 86400
"""How long ranks wait at the start for one whose person sits at a prompt."""
_DEBUGGED = "jobs.rank.debugged"


def main(argv: Sequence[str] | None = None) -> int:
    """Carry out one attempt in the foreground, or open a shell in its environment; return the exit code."""
    options = _parse(argv)
    try:
        environ = dict(os.environ) if options.local else _of_job(os.environ, options.nodes)
        job = find_job(SubmissionDir(options.submission.absolute()), environ, options.local)
        if options.debugger:
            _require(options.debugger)
        return _shell(job) if options.shell else _attempt(job, options.debugger)
    except (StartRefusedError, UnresolvableError, ContainerError) as error:
        _say(str(error))
        return error.exit_code if isinstance(error, StartRefusedError) else 1


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog=f"python -m {INTERACTIVE_MODULE}", description="Debug one run.")
    parser.add_argument("submission", type=Path, help="folder of the submission")
    parser.add_argument("--local", action="store_true", help="start the ranks as processes of this machine")
    parser.add_argument("--shell", action="store_true", help="open a shell instead of starting the ranks")
    parser.add_argument("--nodes", type=int, help="use this many nodes of the allocation; all by default")
    parser.add_argument("--debugger", help="which rank has one: pdb:RANK or debugpy:RANK")
    return parser.parse_args(argv)


def _require(debugger: str) -> None:
    """Check that a debugger can work.

    Raises:
        StartRefusedError: There is no terminal for it.
    """
    name, _, rank = debugger.partition(":")
    if name == "pdb" and not _has_terminal():
        raise StartRefusedError(f"--pdb {rank}: there is no terminal for pdb; type this at one", 2)


def _of_job(environ: Mapping[str, str], nodes: int | None) -> dict[str, str]:
    """Make the environment of the allocation's first `nodes` from that of a step, which names only its own nodes."""
    job_id = environ["SLURM_JOB_ID"]
    allocated = slurm.show_job(job_id).get("NodeList") or environ["SLURM_JOB_NODELIST"]
    names = slurm.hostnames(allocated)[:nodes]
    return outside_job(environ) | {"SLURM_JOB_ID": job_id, "SLURM_JOB_NODELIST": ",".join(names)}


def _say(message: str) -> None:
    print(message, file=sys.stderr, flush=True)


def _shell(job: BatchJob) -> int:
    """Open a shell with the environment of the ranks, and say how to start them."""
    number = max((attempt.number for attempt in read_attempts(job.run.ledger)), default=-1) + 1
    launch = prepare_launch(job, number, _say)
    again = [sys.executable, "-m", INTERACTIVE_MODULE, str(job.submission.root)]
    again += ["--local"] if job.local else [f"--nodes={launch.nodes}"]
    _say(
        f"shell on {os.uname().nodename}, with PYTHONPATH, MASTER_ADDR, MASTER_PORT and the rest of the run exported\n"
        f"start the ranks:  {shlex.join(again)}\n"
        f"leave:            exit"
    )
    shell = os.environ.get("SHELL", "/bin/bash")
    return subprocess.run([shell, "-i"], env=_environment(launch, job), cwd=job.run.root, check=False).returncode


def _attempt(job: BatchJob, debugger: str | None) -> int:
    attempt = open_attempt(job, read_attempts(job.run.ledger))
    say = Journal(job.run.batch_log(attempt.number))
    say(f"attempt {attempt.number} of {job.run.root.name}, interactive: job {job.id} on {', '.join(job.nodes)}")
    code = 1
    try:
        launch = replace(prepare_launch(job, attempt.number, say), variables={START_SECONDS: str(_PATIENCE_SECONDS)})
        if debugger:
            launch = replace(launch, module=_DEBUGGED, variables={**launch.variables, DEBUGGER: debugger})
        on_terminal = int(debugger.removeprefix("pdb:")) if debugger and debugger.startswith("pdb:") else 0
        code = _run_local(launch, say, on_terminal) if job.local else _run_slurm(launch, job, on_terminal)
    finally:
        _close(job, attempt, code)
    return code


def _close(job: BatchJob, attempt: Attempt, code: int) -> None:
    attempt = read_history(job.run, attempt)[-1]
    finished = attempt.reason == "finished"
    end = EndReason("finished" if finished else "stopped", "launcher debug", exit_code=code)
    message = f"debugging ended with exit code {code}"
    close_attempt(job.run, attempt, end, RestartDecision("done" if finished else "stop", message))


def _run_slurm(launch: Launch, job: BatchJob, on_terminal: int) -> int:
    has_terminal = _has_terminal()
    if has_terminal and on_terminal:
        return _beside_the_others(launch, job, on_terminal)
    argv = debug_srun_argv(launch, job.nodes, has_terminal)
    environ = _environment(launch, job)
    if has_terminal:
        return _on_terminal(launch, argv, environ)
    with subprocess.Popen(argv, env=environ, cwd=launch.run.root, stdin=subprocess.DEVNULL) as srun:
        code = _follow(launch, srun.poll)
    return code if code >= 0 else 128 - code


def _beside_the_others(launch: Launch, job: BatchJob, rank: int) -> int:
    """Give another rank than 0 the terminal: it runs in a step of its own, and a placeholder among the others."""
    argv = others_srun_argv(launch, job.nodes, rank)
    with subprocess.Popen(argv, env=_environment(launch, job), cwd=launch.run.root, stdin=subprocess.DEVNULL) as others:
        code = 1
        try:
            own = replace(launch, variables={**launch.variables, **place_of(launch, rank)})
            code = _on_terminal(own, alone_srun_argv(own, job.nodes, rank), _environment(own, job), rank)
        finally:
            tell_end(launch.run, launch.attempt, code)
            if code:  # they wait for it
                others.terminate()
    return code or others.returncode


def _run_local(launch: Launch, say: Callable[[str], None], on_terminal: int) -> int:
    if not _has_terminal():
        ranks = LocalRanks(launch, say)
        return _follow(launch, lambda: None if (end := ranks.poll()) is None else end.exit_code)
    others = LocalRanks(launch, lambda _: None, _GRACE_SECONDS, without=on_terminal)
    try:
        return _on_terminal(launch, launch.command, rank_environment(launch, on_terminal), on_terminal)
    finally:
        others.kill()  # SIGTERM only asks them to save at the next step, so SIGKILL follows
        while others.poll() is None:
            time.sleep(_LOOK_SECONDS)


def _has_terminal() -> bool:
    return sys.stdin.isatty() and sys.stdout.isatty()


def _on_terminal(launch: Launch, argv: Sequence[str], environ: Mapping[str, str], rank: int = 0) -> int:
    log = launch.run.rank_log(launch.attempt, rank)
    return run_on_terminal(argv, environ, launch.run.root, _logs(launch, without=rank).read, log, rank)


def _follow(launch: Launch, poll: Callable[[], int | None]) -> int:
    """Print what all ranks write into their logs until there is an exit code."""
    code, logs = None, _logs(launch)
    while code is None:
        time.sleep(_LOOK_SECONDS)
        code = poll()
        for line in logs.read():
            print(line, flush=True)
    return code


def _logs(launch: Launch, without: int | None = None) -> OtherRanks:
    ranks = (rank for rank in range(launch.world_size) if rank != without)
    return OtherRanks({rank: launch.run.rank_log(launch.attempt, rank) for rank in ranks})


def debug_srun_argv(launch: Launch, nodes: Sequence[str], has_terminal: bool) -> list[str]:
    """Write the srun command of the batch process, but with rank 0 on the terminal if there is one."""
    options, command = _split(launch)
    options += ["--overlap", f"--nodelist={','.join(nodes)}"]
    if not has_terminal:
        return [*options, *command]
    options = [word for word in options if not word.startswith(("--output=", "--open-mode="))]
    wrapper = [*_python(launch, command), "jobs.batch.rank_log", str(launch.run.root), str(launch.attempt)]
    return [*options, "--pty", *wrapper, *command]


def others_srun_argv(launch: Launch, nodes: Sequence[str], rank: int) -> list[str]:
    """Write the srun command of all ranks, of which one is a placeholder."""
    options, command = _split(launch)
    place = [str(launch.run.root), str(launch.attempt), str(rank)]
    wrapper = [*_python(launch, command), "jobs.batch.placeholder", *place]
    return [*options, "--overlap", f"--nodelist={','.join(nodes)}", *wrapper, *command]


def alone_srun_argv(launch: Launch, nodes: Sequence[str], rank: int) -> list[str]:
    """Write the srun command of one rank that has the terminal, beside the others."""
    options, command = _split(launch)
    of_all = ("--nodes=", "--ntasks", "--output=", "--open-mode=", "--distribution=", "--wait=")
    options = [word for word in options if not word.startswith(of_all)]
    node = nodes[rank // launch.ranks_per_node]
    return [*options, "--nodes=1", "--ntasks=1", "--overlap", f"--nodelist={node}", "--pty", *command]


def _split(launch: Launch) -> tuple[list[str], list[str]]:
    """Split the srun command of the batch process into options and command."""
    words = srun_argv(launch)
    at = len(words) - len(contained(launch))
    while words[at].startswith("--container"):
        at += 1
    return words[:at], words[at:]


def _python(launch: Launch, command: Sequence[str]) -> list[str]:
    # pyxis runs the whole command inside the image, apptainer only what follows it.
    return [sys.executable if command[0] == "apptainer" else launch.command[0], "-m"]


def _environment(launch: Launch, job: BatchJob) -> dict[str, str]:
    return {**os.environ, **launch.exports} if job.local else srun_environment(launch, job.environ)


if __name__ == "__main__":
    sys.exit(main())
