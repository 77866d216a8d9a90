"""ZeRO's checkpoints for another number of ranks than saved them, by DeepSpeed's own converter.

ZeRO cuts the optimizer's state into one part for each rank, and refuses any other number. Its universal format
(https://arxiv.org/abs/2406.18820) has a folder for each parameter, of which every rank takes its part. The converted
copy serves one attempt: a kill during the conversion costs that copy only.
"""

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import torch

from jobs.models.parallel import ParallelLayout
from jobs.rank.process_group import wait_for_main
from jobs.train.checkpoint import CheckpointStore

_TELL_SECONDS = 30
_TAIL_CHARACTERS = 2000


def loadable(store: CheckpointStore, layout: ParallelLayout, step: int) -> Path:
    """Return a folder from which the ranks of this attempt can load a checkpoint. A collective.

    The converter and DeepSpeed's loading unpickle what they read. That is what this run wrote, in its own directory:
    the checksums of all files were compared with the manifest before.

    Args:
        store: The run's checkpoints.
        layout: How this attempt's ranks share the model.
        step: Of an intact checkpoint.

    Returns:
        The checkpoint's own folder, or `store.converted` with a copy of it if ZeRO's was saved by other ranks.
    """
    checkpoint, saved_by = store.folder(step), store.saved_by(step)
    if layout.zero_stage is None or saved_by == layout.world_size:
        return checkpoint
    how = f"from {saved_by} to {layout.world_size} ranks"
    wait_for_main(store.group, partial(_convert, checkpoint, store.converted, how))
    return store.converted


def _convert(checkpoint: Path, target: Path, how: str) -> Iterator[None]:
    shutil.rmtree(target, ignore_errors=True)
    target.mkdir()
    for path in checkpoint.iterdir():
        if path.is_file():
            shutil.copy2(path, target)
    [parts] = checkpoint.glob("global_step*")
    began, what = time.monotonic(), f"converting {checkpoint.name} {how}"
    print(f"{what}: {_gigabytes(parts)} ...", flush=True)
    converter = _start_converter(parts, target / f"{parts.name}_universal", target / "log")
    try:
        yield from _wait_for(converter, what, target)
    finally:
        converter.kill()  # a stop leaves it at work; one that has ended is not there to be killed
        converter.wait()
    print(f"{what}: done in {time.monotonic() - began:.0f} s", flush=True)


def _start_converter(parts: Path, target: Path, log: Path) -> "subprocess.Popen[bytes]":
    """Start a process of its own: the converter forks workers, which a process with network threads should not."""
    setpriv = shutil.which("setpriv")
    bound = [setpriv, "--pdeathsig=KILL", "--"] if setpriv else []
    module = [sys.executable, "-m", "deepspeed.checkpoint.ds_to_universal"]
    folders = ["--input_folder", str(parts), "--output_folder", str(target)]
    with log.open("wb") as output:
        return subprocess.Popen(
            [*bound, *module, *folders, "--inject_missing_state"],
            env={**os.environ, "CUDA_VISIBLE_DEVICES": "", "DS_ACCELERATOR": "cpu"},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
        )


def _wait_for(converter: "subprocess.Popen[bytes]", what: str, target: Path) -> Iterator[None]:
    tell_at = time.monotonic() + _TELL_SECONDS
    while converter.poll() is None:
        if time.monotonic() > tell_at:
            print(f"{what}: {_gigabytes(target)} written", flush=True)
            tell_at += _TELL_SECONDS
        time.sleep(0.2)
        yield
    if converter.returncode:
        said = (target / "log").read_text(errors="replace")[-_TAIL_CHARACTERS:]
        raise RuntimeError(f"{what}: ds_to_universal ended with {converter.returncode}:\n{said}")


def _gigabytes(folder: Path) -> str:
    sizes = []
    for path in folder.rglob("*"):
        try:
            sizes.append(path.stat().st_size)
        except FileNotFoundError:  # the converter removes its fragments
            continue
    return f"{sum(sizes) / 1e9:.1f} GB"


def hyperparameters_of(optimizer: torch.optim.Optimizer) -> list[dict[str, Any]]:
    """Return weight decay and the like of each group of parameters, but the learning rate, which moves."""
    moving = ("params", "lr", "initial_lr")
    return [{name: value for name, value in group.items() if name not in moving} for group in optimizer.param_groups]


def expect_universal(engine: Any, is_universal: bool) -> None:
    """Tell DeepSpeed in which format the next checkpoint is that it loads."""
    engine._config.load_universal_checkpoint = is_universal


def settle(engine: Any, hyperparameters: list[dict[str, Any]]) -> None:
    """Repair what DeepSpeed 0.19 leaves behind when it has loaded a universal checkpoint.

    ZeRO-3 gives all groups the hyperparameters of the first, so that biases and norms would decay as well, and one
    count of steps, a tensor that each of them would then increase. That tensor also stays on the CPU, where AdamW's
    fused kernels do not look.

    Args:
        engine: DeepSpeed's.
        hyperparameters: From `hyperparameters_of`, before loading.
    """
    optimizer = engine.optimizer.optimizer
    for group, known in zip(optimizer.param_groups, hyperparameters, strict=True):
        group.update(known)
    for parameter, state in optimizer.state.items():
        if torch.is_tensor(state.get("step")):
            state["step"] = state["step"].to(parameter.device, copy=True)
