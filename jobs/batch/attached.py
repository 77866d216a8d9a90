"""`python -m jobs.batch.attached SUBMISSION_DIR [--local] --run DIR --attempt N --rank R [-- COMMAND...]`: what
`launcher attach` starts on the node of a rank, beside it. It runs the command, or a shell, and ends it with the job."""

import argparse
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from jobs.batch.srun import ContainerError, wrapped
from launcher.run.batch_process import ATTACHED_MODULE
from launcher.run.paths import RunDir
from launcher.run.record import RunRecord
from launcher.run.slurm_text import without_overrides

PROCESS = "LAUNCHER_RANK_PROCESS"
"""Variable that tells the process of the rank."""
_GRACE_SECONDS = 2
_SHELL = "command -v bash >/dev/null && exec bash -i; exec sh -i"
"""An image may have no bash."""
_PLACE = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "NODE_RANK", "MASTER_ADDR", "MASTER_PORT",
          "LAUNCHER_ATTEMPT", "LAUNCHER_HANG_SECONDS", "OMP_NUM_THREADS", "TORCH_FR_DUMP_TEMP_FILE", "PYTHONPATH",
          "PYTHONSAFEPATH", "CUDA_VISIBLE_DEVICES", "SLURM_PROCID", "SLURM_LOCALID", "SLURM_NODEID",
          "SLURM_NTASKS")  # fmt: skip
"""Variables of a rank that mean something outside its container, too."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; return its exit code."""
    options = _parse(argv)
    run = RunDir(options.run)
    found = find_rank(run, options.attempt, options.rank)
    if found is None:
        return _refuse(f"rank {options.rank} is not on {os.uname().nodename} (any more); `launcher status` tells more")
    process, environ = found
    try:
        words, environ = attached_argv(RunRecord.read(run.record), options.command, environ, os.environ)
        return _run(words, {**environ, PROCESS: str(process)}, run.root)
    except ContainerError as error:
        return _refuse(str(error))
    except OSError as error:
        return _refuse(f"{words[0]}: {error.strerror}", 127)


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog=f"python -m {ATTACHED_MODULE}", description="Join a rank of a run.")
    parser.add_argument("submission", type=Path, help="folder of the submission")
    parser.add_argument("--local", action="store_true", help="the ranks are processes of this machine")
    parser.add_argument("--run", type=Path, required=True, help="run directory")
    parser.add_argument("--attempt", type=int, required=True)
    parser.add_argument("--rank", type=int, required=True)
    words = [*(sys.argv[1:] if argv is None else argv)]
    at = words.index("--") if "--" in words else len(words)  # argparse takes no positionals on both sides of options
    options = parser.parse_args(words[:at])
    options.command = words[at + 1 :]
    return options


def _run(words: Sequence[str], environ: Mapping[str, str], folder: Path) -> int:
    # What asks the ranks to stop goes to everything in the job; a shell would die of it, and inherits this.
    for number in (signal.SIGUSR1, signal.SIGUSR2):
        signal.signal(number, signal.SIG_IGN)
    process: subprocess.Popen[bytes] | None = None
    is_over = False

    def end(*_: object) -> None:
        nonlocal is_over
        is_over = True
        if process is not None:
            _end(process)

    for number in (signal.SIGTERM, signal.SIGHUP):  # before the command starts: it must not outlive this process
        signal.signal(number, end)
    process = subprocess.Popen(words, env=dict(environ), cwd=folder)
    if is_over:
        _end(process)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the command
    code = process.wait()
    return code if code >= 0 else 128 - code


def _end(process: "subprocess.Popen[bytes]") -> None:
    """End the command. A shell ignores SIGTERM; as long as it is there Slurm keeps the job, and nobody can resume."""
    process.send_signal(signal.SIGHUP)
    killer = threading.Timer(_GRACE_SECONDS, process.kill)
    killer.daemon = True
    killer.start()


def _refuse(message: str, code: int = 2) -> int:
    print(message, file=sys.stderr, flush=True)
    return code


def find_rank(run: RunDir, attempt: int, rank: int) -> tuple[int, dict[str, str]] | None:
    """Find the process of a rank on this machine, and the environment that it was started with.

    People name a run by any path that leads to it; the rank has the one that it was submitted with.
    """
    root = os.path.realpath(run.root)
    for process, words, environ in _processes():
        is_rank = words[1:4] == ["-u", "-m", "jobs"] and any(
            os.path.realpath(word) == root for word in words[4:5] if word
        )
        place = environ.get("RANK", environ.get("SLURM_PROCID"))
        if is_rank and (place, environ.get("LAUNCHER_ATTEMPT")) == (str(rank), str(attempt)):
            return process, environ
    return None


def _processes() -> Iterator[tuple[int, list[str], dict[str, str]]]:
    for folder in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):  # gone, or another user's
            words = os.fsdecode((folder / "cmdline").read_bytes()).split("\0")
            pairs = os.fsdecode((folder / "environ").read_bytes()).split("\0")
            yield int(folder.name), words, dict(pair.split("=", 1) for pair in pairs if "=" in pair)


def attached_argv(
    record: RunRecord, command: Sequence[str], rank: Mapping[str, str], own: Mapping[str, str]
) -> tuple[list[str], dict[str, str]]:
    """Write what to run, and with which environment.

    Args:
        record: The run's; tells the container.
        command: Its words; a shell if there are none.
        rank: Environment of the rank.
        own: Environment of this process, which has a terminal.

    Raises:
        ContainerError: a folder cannot be mounted.
    """
    cluster, has_terminal = record.cluster, sys.stdin.isatty()
    terminal = {name: own[name] for name in ("TERM", "COLUMNS", "LINES") if name in own}
    container = cluster.get("container")
    if container is None:
        shell = [own.get("SHELL", "/bin/bash"), *(["-i"] if has_terminal else [])]
        return [*command] or shell, {**rank, **terminal}
    place = {name: rank[name] for name in (*_PLACE, *cluster["environment"]) if name in rank}
    names = [PROCESS, *place, *terminal]
    words = wrapped([*command] or ["sh", "-c", _SHELL], cluster, [record.recipe_folder], names)
    if container["runtime"] == "pyxis":
        words = ["srun", "--overlap", "--nodes=1", "--ntasks=1", *(["--pty"] if has_terminal else []), *words]
    return words, {**without_overrides(own), **place}


if __name__ == "__main__":
    sys.exit(main())
