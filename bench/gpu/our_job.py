"""Carries out one training by `python -m jobs`, and ends it after some steps. Answers with speed and memory."""

import json
import os
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

from bench.gpu.measurement import ROOT
from bench.gpu.trainings import SKIPPED_STEPS, Sizes, Training, computes_bf16, options_of_program, recipe_of
from launcher.cluster import Cluster
from launcher.load import LoadedRecipe, load_recipes
from launcher.plan.flops import flops_of_token
from launcher.plan.memory import OVERHEAD, estimate_checkpoint, estimate_memory
from launcher.plan.model_shape import find_shape
from launcher.plan.recipe_at_site import at_site
from launcher.run.ledger import read_json_lines
from launcher.run.paths import RunDir
from launcher.run.pauses import read_pauses
from launcher.run.record import RunRecord, fingerprint

Found = dict[str, Any]


def main() -> int:
    """Train, and say what was measured."""
    parser = options_of_program(__doc__)
    parser.add_argument("training")
    options = parser.parse_args()
    one = Training.read(options.training)
    print(json.dumps(_measure(one, options.work, options.device, options.smallest)))
    return 0


def _measure(one: Training, work: Path, device: str, smallest: bool) -> Found:
    loaded, cluster = loaded_recipe(one, work, device, smallest)
    planned = plan_of(loaded, cluster)
    if reason := reason_against(one, work, device, planned):
        return {"skipped": reason}
    run = write_run(one, work, cluster, json.loads(loaded.recipe.model_dump_json()))
    used = used_memory(device)
    ranks = start_ranks(run, one.gpus)
    try:
        wait_for_steps(run, ranks, Sizes.of(smallest).steps, saves=bool(one.saves))
        rows, now_used = read_json_lines(run.metrics), used_memory(device)
    finally:
        for rank in ranks:
            rank.kill()
            rank.wait()
        shutil.rmtree(run.checkpoints, ignore_errors=True)
    return {
        **speed_of([row["time"] for row in rows], one, loaded, run),
        "memory": round(max(row["memory_gib"] for row in rows) * 2**30),
        "held": None if used is None or now_used is None else now_used - used,
        "planned": planned,
        "graph_breaks": rows[-1].get("graph_breaks"),
        "losses": [row["loss"] for row in rows],
        **(_saves(run, planned) if one.saves else {}),
    }


def reason_against(one: Training, work: Path, device: str, planned: Found) -> str | None:
    """Say what a training lacks on this machine; None if nothing is known to be missing.

    What a training ends with for any other reason is a failure.
    """
    import torch

    room, free = gpu_memory(device), shutil.disk_usage(work).free
    if room and planned["memory"] > room:
        return f"plan says {planned['memory'] / 1e9:.0f} GB, and the GPU has {room / 1e9:.0f} GB"
    if device == "cuda" and one.dtype == "bf16" and not computes_bf16():
        return f"{gpu_name()} does not compute in bf16"
    if one.saves and planned["checkpoint"] * 1.1 > free:
        return f"a checkpoint has {planned['checkpoint'] / 1e9:.0f} GB; {free / 1e9:.0f} are free in {work}"
    if one.compile:
        from jobs.models.compiled_layers import missing_compiler

        return missing_compiler(torch.device(device))
    return None


def loaded_recipe(one: Training, work: Path, device: str, smallest: bool) -> tuple[LoadedRecipe, Cluster]:
    """Write the recipe, and read it as `launcher plan` does; and the profile of this machine."""
    path = work / f"{run_name(one)}.yaml"
    path.write_text(json.dumps(recipe_of(one, smallest)))
    roots = {"runs": str(work), "corpora": str(work / "corpora"), "models": str(work), "data": str(work)}
    gpus: dict[str, Any] = {"device": device}
    if device == "cuda":
        gpus["type"] = gpu_name().replace(" ", "-")
    return load_recipes(path)[0], Cluster.model_validate(
        {"name": "here", "executor": "local", "roots": roots, "gpus": gpus}
    )


def plan_of(loaded: LoadedRecipe, cluster: Cluster) -> Found:
    """Return what the closed form says: bytes of a GPU, of the parts of it, and of a checkpoint."""
    recipe: Any = loaded.recipe
    shape = find_shape(recipe, at_site(loaded, cluster))
    assert shape is not None
    memory = estimate_memory(recipe, shape)
    assert memory is not None
    return {
        "memory": memory.total,
        "allocated": memory.total - OVERHEAD,
        "parts": {name: value for name, value in vars(memory).items() if value},
        "checkpoint": estimate_checkpoint(recipe, shape),
    }


def run_name(one: Training) -> str:
    """Name of the run's folder."""
    return "run-" + "".join(letter if letter.isalnum() else "-" for letter in one.name)


def write_run(one: Training, work: Path, cluster: Cluster, recipe: Found) -> RunDir:
    """Write the run directory, as `launcher submit` does."""
    run = RunDir(work / run_name(one))
    run.attempt_logs(0).mkdir(parents=True)
    run.recipe.write_text(json.dumps(recipe))
    RunRecord(
        id=run.root.name,
        name=run.root.name,
        kind=recipe["kind"],
        fingerprint=fingerprint(recipe),
        created=time.time(),
        code_hash="",
        code_commit=None,
        recipe_folder=str(work),
        wandb_id="",
        cluster=cluster.model_dump(mode="json"),
    ).write(run.record)
    return run


def start_ranks(run: RunDir, count: int, attempt: int = 0) -> list["subprocess.Popen[bytes]"]:
    """Start the ranks of an attempt, with a terminal for none of them."""
    port, ranks = free_port(), []
    for rank in range(count):
        environ = os.environ | {
            "RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(count), "LOCAL_WORLD_SIZE": str(count),
            "NODE_RANK": "0", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port),
        }  # fmt: skip
        log = run.rank_log(attempt, rank).open("wb")
        command = [sys.executable, "-m", "jobs", str(run.root), "--attempt", str(attempt)]
        ranks.append(subprocess.Popen(command, cwd=ROOT, env=environ, stdout=log, stderr=log, stdin=subprocess.DEVNULL))
        log.close()
    return ranks


def free_port() -> int:
    """Return a port that nothing listens on now."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


def wait_for_steps(run: RunDir, ranks: Sequence["subprocess.Popen[bytes]"], steps: int, saves: bool) -> None:
    """Wait until so many steps are done and, if wanted, training has waited for a save; a rank that ends has failed."""
    while len(read_json_lines(run.metrics)) < steps or (saves and not waits_for_saves(run)):
        ended = [(number, rank.returncode) for number, rank in enumerate(ranks) if rank.poll() is not None]
        if ended:
            number, code = ended[0]
            print(run.rank_log(0, number).read_text(errors="replace")[-4000:], file=sys.stderr)
            what = f"signal {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
            raise SystemExit(f"Error: rank {number} ended with {what}: {_said(run.rank_log(0, number))}")
        time.sleep(0.1)


def _said(log: Path) -> str:
    lines = [line.strip() for line in log.read_text(errors="replace").splitlines() if line.strip()]
    return next((line for line in reversed(lines) if "Error" in line or "memory" in line), lines[-1] if lines else "")


def speed_of(times: list[float], one: Training, loaded: LoadedRecipe, run: RunDir) -> Found:
    """Return seconds of a step, tokens a second of all GPUs that are no padding, and MFU where the peak is known."""
    taken = [after - before for before, after in pairwise(times)][SKIPPED_STEPS - 1 :]
    seconds, recipe = statistics.median(taken), loaded.recipe
    tokens = tokens_of_step(one, loaded, run)
    roots = dict.fromkeys(("runs", "corpora", "models"), str(run.root.parent))
    here = at_site(loaded, Cluster.model_validate({"name": "here", "roots": roots}))
    shape = find_shape(recipe, here)  # type: ignore[arg-type]
    assert shape is not None
    flops = flops_of_token(recipe, shape)  # type: ignore[arg-type]
    peak = peak_of_gpu(one.dtype)
    rate = tokens / seconds
    return {
        "step_seconds": seconds,
        "tokens_per_second": rate,
        "mfu": None if peak is None else rate * flops / (peak * one.gpus),
        "steps": len(taken),
    }


def tokens_of_step(one: Training, loaded: LoadedRecipe, run: RunDir) -> float:
    """Tokens of a step that are no padding: single examples are shorter than a sequence, packed ones hardly."""
    batch = loaded.recipe.batch  # type: ignore[union-attr]
    if one.stage == "cpt" or one.packing == "bfd":
        return float(batch.sequences * batch.sequence_length)
    from bench.gpu.trainings import SOURCE

    counts = json.loads((run.examples / SOURCE / "source.json").read_bytes())["examples"]["train"]
    return float(batch.sequences * counts["tokens"] / counts["documents"])


def gpu_name() -> str:
    """Name of the first GPU."""
    import torch

    return str(torch.cuda.get_device_name(0))


def peak_of_gpu(dtype: str) -> float | None:
    """Its dense peak in FLOP/s; None without one, or if the table does not know it."""
    import torch

    from launcher.gpus import peak_flops

    return peak_flops(gpu_name(), dtype, True) if torch.cuda.is_available() else None


def gpu_memory(device: str) -> int | None:
    """Bytes of a GPU; None on CPUs."""
    if device == "cpu":
        return None
    import torch

    return int(torch.cuda.get_device_properties(0).total_memory)


def used_memory(device: str) -> int | None:
    """Bytes of the first GPU that all processes together hold, as its driver says; None if it cannot be asked.

    The driver counts all GPUs, this process those that it sees: `CUDA_VISIBLE_DEVICES`.
    """
    if device == "cpu":
        return None
    import torch

    gpu = f"GPU-{torch.cuda.get_device_properties(0).uuid}"
    command = ["nvidia-smi", "--query-gpu=memory.used", "--format=csv,noheader,nounits", f"--id={gpu}"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=True)
        return int(done.stdout.split()[0]) * 2**20
    except (OSError, subprocess.SubprocessError, ValueError, IndexError):
        return None


def waits_for_saves(run: RunDir) -> list[float]:
    """Return how long training waited for each save so far, in seconds."""
    return [pause.seconds for pause in read_pauses(run.pauses) if pause.what == "saving"]


def _saves(run: RunDir, planned: Found) -> Found:
    """Of the first save: a later one may wait until the one before it is on the disk."""
    return {"save_seconds": waits_for_saves(run)[0], "checkpoint_bytes": planned["checkpoint"]}


if __name__ == "__main__":
    sys.exit(main())
