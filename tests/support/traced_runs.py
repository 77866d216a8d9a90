"""Traces of small trainings, and the same steps on real tensors by real ranks."""

import json
import os
import sys
import tempfile
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from launcher.artifacts.trace import Trace, TraceRequest
from launcher.recipe import read_recipe
from launcher.recipe.kinds.training import TrainingRecipe
from tests.support.forked_ranks import Forked
from tests.support.training_runs import cpt_recipe, free_port
from tests.support.waiting import PATIENCE

TINY_LLAMA: dict[str, object] = {
    "model_type": "llama",
    "architectures": ["LlamaForCausalLM"],
    "num_hidden_layers": 4,
    "hidden_size": 64,
    "intermediate_size": 176,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 1024,
    "max_position_embeddings": 512,
    "tie_word_embeddings": False,
}


TRACING = """
import runpy, sys
from pathlib import Path
folder = Path("{0}")
sys.stdin = (folder / "request.json").open()
sys.stdout = (folder / "trace.json").open("w")
runpy.run_module("jobs.trace", run_name="__main__", alter_sys=True)
"""


def request_of(
    folder: Path, traced: tuple[int, ...], config: dict[str, object] = TINY_LLAMA, **changes: Any
) -> TraceRequest:
    """Ask for a trace of a small training of four ranks; keywords replace keys of its sections."""
    (folder / "config.json").write_text(json.dumps(config))
    sections: dict[str, Any] = {
        "batch": {"global_batch": "16 sequences", "micro_batch": 1, "sequence_length": 128},
        "precision": {"dtype": "bf16"},
        "resources": {"nodes": 2, "gpus_per_node": 2, "time": "10min"},
    }
    recipe = cpt_recipe(**{**sections, **changes})
    layers = config["num_hidden_layers"]
    assert isinstance(layers, int)
    resolved = json.loads(recipe_of(recipe).model_dump_json())
    return TraceRequest(resolved, str(folder), layers, traced)


def recipe_of(sections: dict[str, Any]) -> TrainingRecipe:
    """Read the recipe of a request."""
    recipe = read_recipe(json.dumps(sections))
    assert isinstance(recipe, TrainingRecipe)
    return recipe


def traced(request: TraceRequest) -> Trace:
    """Trace on fake tensors, in a process of its own."""
    folder = Path(tempfile.mkdtemp(dir=request.model))
    (folder / "request.json").write_text(request.write())
    tracing = Forked(["-c", TRACING.format(folder)], os.environ, folder / "trace.log")
    tracing.wait(PATIENCE)
    assert tracing.returncode == 0, (folder / "trace.log").read_text()
    return Trace.read((folder / "trace.json").read_text())


def carried_out(request: TraceRequest, folder: Path) -> Trace:
    """Take the same steps on real tensors, in as many ranks as the recipe has."""
    resources = recipe_of(request.recipe).resources
    (folder / "request.json").write_text(request.write())
    port = free_port()
    ranks = []
    for rank in range(resources.world_size):
        environ = os.environ | {
            "RANK": str(rank),
            "WORLD_SIZE": str(resources.world_size),
            "LOCAL_RANK": str(rank % resources.ranks_per_node),
            "LOCAL_WORLD_SIZE": str(resources.ranks_per_node),
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": str(port),
        }
        argv = ["-m", "tests.support.traced_runs", str(folder)]
        ranks.append(Forked(argv, environ, folder / f"rank{rank}.log"))
    for rank in ranks:
        rank.wait(PATIENCE)
    said = [(folder / f"rank{rank}.log").read_text() for rank in range(len(ranks))]
    assert [rank.returncode for rank in ranks] == [0] * len(ranks), said
    return Trace.read((folder / "carried_out.json").read_text())


def _carry_out(folder: Path) -> None:
    import torch.distributed as dist

    from jobs.rank.ranks import ranks_from
    from jobs.trace.extrapolate import trace_of
    from jobs.trace.measure import take_steps
    from jobs.trace.subject import Subject

    request, ranks = TraceRequest.read((folder / "request.json").read_text()), ranks_from(os.environ)
    own = folder / str(ranks.rank)
    own.mkdir()
    dist.init_process_group("gloo")
    recipe = recipe_of(request.recipe)
    measured = take_steps(recipe, Subject(request, request.layers, own), ranks, nullcontext)
    if ranks.is_main:
        (folder / "carried_out.json").write_text(trace_of([measured], request.layers).write())
    dist.barrier()
    os._exit(0)


if __name__ == "__main__":
    _carry_out(Path(sys.argv[1]))
