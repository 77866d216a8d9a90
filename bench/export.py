"""What `kind: export` gains on CPUs: prefill and decode of a model in onnxruntime, against torch.

The shipped Llama, and SmolLM2-135M where its package is installed (`bash .ci/model-packages`). Each is exported as the
kind does; a prompt of some length and the tokens after it are computed by both in turns, in one process and with one
thread, in seconds of that thread: ratios of medians stay about the same beside other work. Both compute the logits of
all tokens of a prompt, in fp32, batch 1. `--folder` keeps the graphs, and takes those that are there already.

    python bench/export.py [--rounds 20] [--lengths 32 128] [--folder FOLDER] [--json] [--smallest]
"""

import argparse
import contextlib
import json
import os
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from bench.support.unmeasured import NOT_MEASURED, not_measured

SMOLLM2 = "SmolLM2-135M"
LIMITS = {"prefill": 0.9, "decode": 1.1}
"""Torch multiplies large matrices about as fast as onnxruntime does on CPUs with AVX-512."""
Ratios = dict[str, float]


def main() -> int:
    options = _parse()
    os.environ |= {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
    import torch

    torch.set_num_threads(1)
    with contextlib.ExitStack() as stack:
        folder = Path(options.folder or stack.enter_context(tempfile.TemporaryDirectory()))
        found = {name: _compare(path, folder / name, options) for name, path in _models(folder, options).items()}
    return _report(found, options)


def _models(folder: Path, options: argparse.Namespace) -> dict[str, Path]:
    """Folders of the models that are at hand."""
    import _pytest.outcomes

    from tests.support.export_runs import LLAMA, one_layer
    from tests.support.pretrained_models import smollm2

    if options.smallest:
        (folder / "models").mkdir(parents=True, exist_ok=True)
        return {"one layer of the shipped Llama": one_layer(folder)}
    models = {"the shipped Llama": LLAMA}
    try:
        source = folder / "smollm2"
        models[SMOLLM2] = source if source.is_dir() else smollm2(source)
    except _pytest.outcomes.Skipped as reason:
        not_measured(f"{SMOLLM2}: {reason}")
    return models


def _compare(model_folder: Path, folder: Path, options: argparse.Namespace) -> dict[str, Ratios]:
    """How many times as fast onnxruntime is, by prompt length and kind of work."""
    import torch

    from jobs.export.graphs import GraphsProbed
    from jobs.export.latency import compare_latency
    from jobs.export.probe import TorchProbed
    from jobs.export.trace import trace
    from jobs.models.merge.peft_merge import load_in_fp32

    model = load_in_fp32(model_folder, torch.device("cpu"), "model")
    if not (folder / "decode.onnx").is_file():
        trace(model, "language model", folder, is_quantised=False)
    ways = {
        "torch": TorchProbed(model, "language model"),
        "onnxruntime": GraphsProbed(folder, "language model", threads=1),
    }
    rows = model.config.vocab_size
    seconds = compare_latency(ways, options.lengths, rows, True, rounds=options.rounds, clock=time.thread_time)
    return {
        length: {kind: its[kind]["torch"]["p50"] / its[kind]["onnxruntime"]["p50"] for kind in LIMITS}
        for length, its in seconds.items()
    }


def _report(found: dict[str, dict[str, Ratios]], options: argparse.Namespace) -> int:
    ratios = [pair for lengths in found.values() for its in lengths.values() for pair in its.items()]
    holds = all(ratio >= LIMITS[kind] for kind, ratio in ratios)
    if options.json:
        print(json.dumps({"ratios": found, "limits": LIMITS}))
    for name, lengths in found.items() if not options.json else ():
        for length, its in lengths.items():
            said = ", ".join(f"{kind} {ratio:.2f}" for kind, ratio in its.items())
            print(f"{name}, prompt of {length} tokens: times as fast as torch: {said}")
    if options.smallest:
        return 0
    if not options.json:
        limits = ", ".join(f"{kind} at least {limit}" for kind, limit in LIMITS.items())
        print(f"{limits}: {'holds' if holds else 'MISSED'}")
    if not holds:
        return 1
    return 0 if SMOLLM2 in found else NOT_MEASURED


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=20, help="measurements of each kind")
    parser.add_argument("--lengths", type=int, nargs="+", default=[32, 128], help="tokens of the prompts")
    parser.add_argument("--folder", help="keep the graphs here, and take what is there")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--smallest", action="store_true", help="a model of one layer, two rounds; judges nothing")
    options = parser.parse_args()
    if options.smallest:
        options.rounds, options.lengths = 2, [8]
    return options


if __name__ == "__main__":
    sys.exit(main())
