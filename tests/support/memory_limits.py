"""Models for which the memory of one rank is too small.

`TightLlama` needs no GPU: its forward pass raises what CUDA's allocator raises. `LimitedLlama` lets the allocator.
"""

import json
import shutil
from pathlib import Path

from transformers.dynamic_module_utils import get_cached_module_file

from tests.support.training_runs import ASSETS

CODE = '''
import hashlib
import os

import torch
from transformers import LlamaForCausalLM


class TightLlama(LlamaForCausalLM):
    """Has no room for more than `fits` sequences on one rank, from some pass on, and notes what it is trained on."""

    def __init__(self, config):
        super().__init__(config)
        self.passes = 0
        # A loss without logits calls the layers without the head's own forward pass.
        self.model.register_forward_pre_hook(self.take, with_kwargs=True)

    def take(self, layers, given, named):
        if not self.training:  # looked at before the first step, or evaluated
            return
        input_ids = named["input_ids"]
        self.passes += 1
        rank, tight = os.environ["RANK"], self.config.tight
        if int(rank) == tight["rank"] and len(input_ids) > tight["fits"] and self.passes > tight["after"]:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.\\nGPU 0 has ...")
        with open(os.path.join(tight["notes"], f"{os.environ['LAUNCHER_ATTEMPT']}-{rank}"), "a") as notes:
            rows = [hashlib.sha256(row.numpy().tobytes()).hexdigest()[:12] for row in input_ids]
            notes.write(" ".join(rows) + "\\n")
'''

LIMITED = """
import torch
from transformers import LlamaForCausalLM


class LimitedLlama(LlamaForCausalLM):
    \"\"\"Leaves its process no more than `limit` bytes of the GPU.\"\"\"

    def __init__(self, config):
        super().__init__(config)
        torch.cuda.set_per_process_memory_fraction(config.limit / torch.cuda.mem_get_info()[1])
"""


def make_tight_model(folder: Path, fits: int, rank: int = 1, after: int = 0) -> Path:
    """Make a model that fails with more than `fits` sequences on `rank`, once `after` passes went well.

    Returns:
        The folder of the notes: for each attempt and rank a line for each micro batch, a word for each sequence.
    """
    notes = folder.with_name(f"{folder.name}-notes")
    notes.mkdir()
    _make(folder, "TightLlama", CODE, tight={"fits": fits, "rank": rank, "after": after, "notes": str(notes)})
    return notes


def make_limited_model(folder: Path, limit: int) -> None:
    """Make a model whose process gets `limit` bytes of the GPU, weights included."""
    _make(folder, "LimitedLlama", LIMITED, limit=limit)


def _make(folder: Path, name: str, code: str, **settings: object) -> None:
    shutil.copytree(ASSETS / "stories260k", folder)
    config = json.loads((folder / "config.json").read_text()) | settings
    config["auto_map"] = {"AutoModelForCausalLM": f"modeling_tight.{name}"}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "modeling_tight.py").write_text(code)
    # Ranks that all copy it into transformers' cache at once read each other's halves.
    get_cached_module_file(str(folder), "modeling_tight.py")


def order_of(notes: Path, attempt: int, ranks: int) -> list[str]:
    """The sequences of an attempt in their order, which is that over all ranks."""
    passes = [(notes / f"{attempt}-{rank}").read_text().splitlines() for rank in range(ranks)]
    return [word for together in zip(*passes, strict=True) for line in together for word in line.split()]
