"""One measurement: a program of its own with a time limit. Standard library only.

The program prints one JSON object as the last line of its output: what it found, or `{"skipped": "why"}`. If it ends
with another code than 0 it has failed, and what it found is kept; `"why"` in it says the reason. It is ended, with all
that it started, when its time is over (`KIT_SECONDS` in its environment), and a failure of one does not touch the
others.
"""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

ROOT = Path(__file__).parents[2]
JOBS = ("accelerate", "numpy", "orjson", "peft", "psutil", "pydantic", "safetensors", "torch", "transformers", "yaml")
"""What a training of ours imports."""
SECONDS = "KIT_SECONDS"
"""Variable of a program's environment: after so many seconds it is ended."""
VISIBLE = "CUDA_VISIBLE_DEVICES"
Status = Literal["measured", "skipped", "failed", "out of time"]


@dataclass(frozen=True)
class Measurement:
    """What is to be measured."""

    name: str
    group: str
    """Heading of the report."""
    module: str
    """The program: `python -m MODULE`."""
    arguments: tuple[str, ...] = ()
    seconds: float = 60
    """It is ended after so long."""
    needs: tuple[str, ...] = JOBS
    """Modules; if one is not installed the measurement is skipped."""
    gpus: int = 1
    """It is skipped where fewer are there; CPUs count as two. With one it sees no other GPU; with 0 it sees all."""
    after: tuple[str, ...] = ()
    """Measurements that it reads something of; it is skipped unless they went well."""
    only: Literal["cuda", "cpu"] | None = None
    """Skipped on other devices."""


@dataclass
class Outcome:
    """How a measurement went."""

    name: str
    group: str
    status: Status
    why: str = ""
    """For what was not measured: the reason."""
    seconds: float = 0.0
    result: dict[str, Any] = field(default_factory=dict)

    def as_plain(self) -> dict[str, Any]:
        """Return it for JSON."""
        return asdict(self)


@dataclass(frozen=True)
class Place:
    """Where measurements run."""

    work: Path
    """Folder for what they write and read."""
    device: str
    gpus: int
    smallest: bool

    def arguments(self) -> list[str]:
        """Return the options that each program gets."""
        return ["--work", str(self.work), "--device", self.device, *(["--smallest"] if self.smallest else [])]


def reason_to_skip(one: Measurement, place: Place, done: Mapping[str, Outcome]) -> str | None:
    """Say why a measurement cannot be made here; None if it can."""
    if one.only and one.only != place.device:
        return f"is for {'a GPU' if one.only == 'cuda' else 'CPUs'}, and this machine has {_what(place)}"
    if place.device == "cuda" and one.gpus > place.gpus:
        return f"needs {one.gpus} GPUs, and this machine has {place.gpus}"
    if missing := [name for name in one.needs if find_spec(name) is None]:
        return f"needs {', '.join(missing)}, which {sys.executable} does not have"
    for name in one.after:
        if name not in done or done[name].status != "measured":
            return f"needs `{name}`, which was not measured"
    return None


def _what(place: Place) -> str:
    return f"{place.gpus} GPUs" if place.device == "cuda" else "no GPU that torch sees"


def measure(one: Measurement, place: Place, seconds: float) -> Outcome:
    """Carry a measurement out, and end it after so many seconds, or its own limit if that is less."""
    limit = min(seconds, one.seconds)
    began = time.monotonic()
    log = place.work / "logs" / f"{_file_name(one.name)}.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", one.module, *place.arguments(), *one.arguments]
    environ = environment(one, place) | {SECONDS: str(limit)}
    code, output = _run(command, environ, log, limit)
    taken = time.monotonic() - began
    if code is None:
        return Outcome(one.name, one.group, "out of time", f"was ended after {limit:.0f} s", taken)
    result = _last_object(output)
    if code or result is None:
        why = str((result or {}).get("why") or _last_words(log, code))
        return Outcome(one.name, one.group, "failed", why, taken, result or {})
    if "skipped" in result:
        return Outcome(one.name, one.group, "skipped", str(result["skipped"]), taken)
    return Outcome(one.name, one.group, "measured", "", taken, result)


def _run(command: Sequence[str], environ: Mapping[str, str], log: Path, limit: float) -> tuple[int | None, str]:
    """Run a program in a session of its own; None for its exit code if it took too long."""
    with log.open("w", encoding="utf-8") as errors:
        process = subprocess.Popen(
            command,
            cwd=ROOT,
            env=environ,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
            start_new_session=True,
        )
        try:
            output, _ = process.communicate(timeout=limit)
            return process.returncode, output
        except subprocess.TimeoutExpired:
            return None, ""
        finally:
            _end_all(process)


def _end_all(process: "subprocess.Popen[str]") -> None:
    """End what a program has started and left behind: all of its session's group."""
    with contextlib.suppress(ProcessLookupError):  # all have ended by themselves
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    if process.stdout:
        process.stdout.close()


def environment(one: Measurement, place: Place) -> dict[str, str]:
    """Return the environment of a measurement's program; of several GPUs one for one GPU sees the first alone.

    Programs of others would use all that they see: transformers' Trainer splits each batch among them.
    """
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("SLURM_", "WANDB_"))}
    kept |= {
        "PYTHONPATH": str(ROOT),
        "HF_HUB_OFFLINE": "1",
        "PYTHONUNBUFFERED": "1",
        "TOKENIZERS_PARALLELISM": "false",
    }
    if place.device == "cuda" and one.gpus == 1:
        kept[VISIBLE] = kept.get(VISIBLE, "0").split(",")[0]
    return kept


def _last_object(output: str) -> dict[str, Any] | None:
    lines = [line for line in output.encode().splitlines() if line.strip()]
    try:
        found = json.loads(lines[-1]) if lines else None
    except ValueError:
        return None
    return found if isinstance(found, dict) else None


def _last_words(log: Path, code: int) -> str:
    """Return the line that says why a program failed: its last one, or that of an error before a traceback's end."""
    lines = [line.strip() for line in log.read_text(encoding="utf-8", errors="replace").splitlines() if line.strip()]
    said = next((line for line in reversed(lines) if "Error" in line), lines[-1] if lines else "")
    return f"ended with {code}: {said[:400]}" if said else f"ended with {code} and said nothing"


def _file_name(name: str) -> str:
    return "".join(letter if letter.isalnum() else "-" for letter in name)
