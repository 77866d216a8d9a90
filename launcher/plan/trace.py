"""Traces of trainings: made by a program of its own, since the launcher knows no torch, and kept for the next look."""

import contextlib
import json
import os
import stat
import subprocess
import sys
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING

import launcher
from launcher.artifacts.model_config import count_layers
from launcher.artifacts.tokenizer_manifest import EXPANSION
from launcher.artifacts.trace import FEW_LAYERS, TRACE_MODULE, TRACED_STRATEGIES, Trace, TraceRequest
from launcher.cluster import Cluster
from launcher.errors import LauncherError
from launcher.load import LoadedRecipe
from launcher.plan.forecast import starting_micro_batch
from launcher.plan.model_shape import read_json
from launcher.plan.recipe_at_site import at_site
from launcher.plan.unknown_sizes import why_not_traced
from launcher.recipe.sections.adapter import AdaptionPrompt
from launcher.recipe.sections.molora import Orthogonal
from launcher.run.files import replace_text
from launcher.run.index import make_shared
from launcher.run.paths import expand, index_root
from launcher.run.record import fingerprint

if TYPE_CHECKING:
    from launcher.recipe.kinds.training import TrainingRecipe

_CODE = ("models", "train", "trace")
"""Packages of `jobs` that decide what a training needs."""
_DECISIVE = ("kind", "model", "adapter", "batch", "precision", "parallel")
"""Sections of a recipe that do, too."""
_LIBRARIES = ("torch", "transformers", "accelerate", "peft")


def kept_trace(loaded: LoadedRecipe, cluster: Cluster) -> Trace | None:
    """Return what a trace of the same training has found before, of the whole model if there is one; else None."""
    if not loaded.recipe.trains or refusal(loaded.recipe):
        return None
    for full in (True, False):
        try:
            request = trace_request(loaded, cluster, full)
            return Trace.read(_kept(request, cluster).read_text(encoding="utf-8"))
        except (LauncherError, OSError, ValueError):
            continue
    return None


def trace(loaded: LoadedRecipe, cluster: Cluster, full: bool) -> Trace:
    """Trace a training, and keep what was found.

    Args:
        loaded: Its recipe.
        cluster: Where it is to run.
        full: Trace the whole model instead of two small ones.

    Raises:
        LauncherError: it cannot be traced, or this Python lacks torch.
    """
    request = trace_request(loaded, cluster, full)
    found = Trace.read(_carry_out(request))
    _keep(found, _kept(request, cluster), expand(cluster.roots.runs))
    return found


def trace_request(loaded: LoadedRecipe, cluster: Cluster, full: bool) -> TraceRequest:
    """Say what is to be traced.

    Raises:
        LauncherError: it cannot be.
    """
    recipe = loaded.recipe
    if not recipe.trains:
        raise LauncherError(f"--trace: {loaded.path}: `kind: {recipe.kind}` trains nothing; leave `--trace` out")
    if reason := refusal(recipe):
        raise LauncherError(f"--trace: {loaded.path}: {reason}")
    start = starting_micro_batch(loaded, cluster)
    recipe = recipe if start is None else recipe.sized(start)
    here = at_site(loaded, cluster)
    layers = count_layers(here.config(recipe.model.path) or {})
    if (reason := why_not_traced(recipe.model.path, here)) or layers is None:
        raise LauncherError(f"--trace: {loaded.path}: model.path: {reason}")
    whole = full or layers <= max(FEW_LAYERS) or isinstance(recipe.adapter, AdaptionPrompt)
    tokenizer = recipe.model.tokenizer
    return TraceRequest(
        recipe=json.loads(recipe.model_dump_json()),
        model=str(here.model(recipe.model.path)),
        layers=layers,
        traced=(layers,) if whole else FEW_LAYERS,
        tokenizer=tokenizer and str(here.model(tokenizer)),
        classes=recipe.classes or 2,
    )


def refusal(recipe: "TrainingRecipe") -> str | None:
    """Say why a training cannot be traced; None if it can be."""
    if not recipe.is_traceable:
        return f"`kind: {recipe.kind}` cannot be traced, only `cpt`, `sft` and `classify`; leave `--trace` out"
    if recipe.parallel.strategy not in TRACED_STRATEGIES:
        return (
            f"`parallel.strategy: {recipe.parallel.strategy}` is DeepSpeed's, which needs real tensors; try "
            "`--set parallel.strategy=full_shard`, or leave `--trace` out"
        )
    if recipe.model.quantization is not None:
        return "quantised weights cannot be traced; leave `--trace` out"
    if isinstance(recipe.adapter, Orthogonal):
        return "an `orthogonal` adapter starts from files, which are not read; leave `--trace` out"
    return None


def _carry_out(request: TraceRequest) -> str:
    code = str(Path(launcher.__file__).parents[1])
    path = os.pathsep.join(filter(None, [code, os.environ.get("PYTHONPATH")]))
    environ = os.environ | {
        "PYTHONPATH": path,
        "PYTHONSAFEPATH": "1",
    }  # a folder `jobs` in the working directory is not ours
    argv = [sys.executable, "-W", "ignore", "-m", TRACE_MODULE]
    done = subprocess.run(argv, input=request.write(), env=environ, capture_output=True, text=True, check=False)
    if done.returncode:
        lines = [line for line in done.stderr.splitlines() if line.strip()]
        raise LauncherError(f"--trace: {lines[-1].removeprefix('--trace: ') if lines else 'it was ended'}")
    return done.stdout


def _kept(request: TraceRequest, cluster: Cluster) -> Path:
    """Where the trace of a training is kept: by all that decides what it needs, wherever its files lie."""
    decisive = {key: request.recipe[key] for key in _DECISIVE} | {
        "resources": {key: request.recipe["resources"][key] for key in ("nodes", "gpus_per_node")},
        "config": read_json(Path(request.model) / "config.json"),
        "expansion": request.tokenizer and read_json(Path(request.tokenizer) / EXPANSION),
        "classes": request.classes,
        "traced": request.traced,
        "code": [*map(_version, _LIBRARIES), *_code()],
    }
    return index_root(expand(cluster.roots.runs)) / ".traces" / f"{fingerprint(decisive)}.json"


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return ""


def _code() -> Iterator[str]:
    root = Path(launcher.__file__).parents[1] / "jobs"
    for path in sorted(path for package in _CODE for path in (root / package).rglob("*.py")):
        status = path.stat()
        yield f"{path.relative_to(root)} {status.st_size} {status.st_mtime_ns}"


def _keep(found: Trace, path: Path, runs_root: Path) -> None:
    """Keep a trace for all who use the folder of runs; where nothing can be written it is made again."""
    with contextlib.suppress(OSError):
        runs_root.mkdir(parents=True, exist_ok=True)
        make_shared(path.parent, runs_root)
        replace_text(path, found.write(), stat.S_IMODE(os.stat(runs_root).st_mode) & 0o666)
