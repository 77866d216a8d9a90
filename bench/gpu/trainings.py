"""The trainings that are measured: their recipes, and what they read."""

import argparse
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

SHAPES: dict[str, dict[str, int]] = {
    "1B": {  # TinyLlama's (https://arxiv.org/abs/2401.02385)
        "hidden_size": 2048, "intermediate_size": 5632, "num_hidden_layers": 22, "num_attention_heads": 32,
        "num_key_value_heads": 4, "head_dim": 64, "vocab_size": 32_000,
    },
    "7B": {  # Llama 2's (https://arxiv.org/abs/2307.09288)
        "hidden_size": 4096, "intermediate_size": 11_008, "num_hidden_layers": 32, "num_attention_heads": 32,
        "num_key_value_heads": 32, "head_dim": 128, "vocab_size": 32_000,
    },
}  # fmt: skip
TINY: dict[str, dict[str, int]] = {
    "1B": {
        "hidden_size": 64, "intermediate_size": 176, "num_hidden_layers": 2, "num_attention_heads": 4,
        "num_key_value_heads": 2, "head_dim": 16, "vocab_size": 512,
    },
    "7B": {
        "hidden_size": 128, "intermediate_size": 352, "num_hidden_layers": 3, "num_attention_heads": 4,
        "num_key_value_heads": 4, "head_dim": 32, "vocab_size": 512,
    },
}  # fmt: skip
"""Stand-ins that CPUs can train; what they measure means nothing."""
LORA = {"method": "lora", "r": 16, "alpha": 32, "targets": ["q_proj", "k_proj", "v_proj", "o_proj"]}
CORPUS = "words"
SOURCE = "long_answers"
SKIPPED_STEPS = 4
"""The first steps compile, fill caches and ask the allocator for memory."""


@dataclass(frozen=True)
class Training:
    """One training of ours, which others repeat with other programs."""

    stage: str
    """`cpt`, `sft`, `lora` or `qlora`."""
    shape: str = "1B"
    compile: bool = False
    recomputes: str = "none"
    packing: str = ""
    """Of fine-tuning: `bfd` or `pad`."""
    gpus: int = 1
    strategy: str = "ddp"
    dtype: str = "bf16"
    attention: str = "sdpa"
    saves: str = ""
    """`wait`: a checkpoint after the steps that are measured; `behind`: the same with `checkpoint.async`."""

    @property
    def name(self) -> str:
        """What the report calls it."""
        words = [self.shape, self.stage]
        words += [self.packing] * (self.packing == "bfd") + ["compiled"] * self.compile
        words += [self.recomputes] * (self.recomputes != "none")
        words += [self.strategy, f"{self.gpus} GPUs"] * (self.gpus > 1)
        words += [self.dtype] * (self.dtype != "bf16") + [self.attention] * (self.attention != "sdpa")
        words += [{"": "", "wait": "with saves", "behind": "with saves in the background"}[self.saves]]
        return " ".join(filter(None, words))

    def write(self) -> str:
        """Write it as JSON, for the program that carries it out."""
        return json.dumps(vars(self))

    @classmethod
    def read(cls, text: str) -> "Training":
        """Read one."""
        return cls(**json.loads(text))


@dataclass(frozen=True)
class Sizes:
    """How much is trained on."""

    sequence_length: int
    micro_batch: int
    steps: int
    """That are waited for."""

    @classmethod
    def of(cls, smallest: bool) -> "Sizes":
        """Return what CPUs can do in seconds, or what keeps a GPU busy."""
        return cls(256, 2, SKIPPED_STEPS + 3) if smallest else cls(2048, 4, SKIPPED_STEPS + 8)


def options_of_program(description: str | None) -> argparse.ArgumentParser:
    """Return a parser of what each program gets."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--work", type=Path, required=True, help="folder of what is read and written")
    parser.add_argument("--device", choices=["cuda", "cpu"], required=True)
    parser.add_argument("--smallest", action="store_true", help="tiny stand-ins, which CPUs can train")
    return parser


def computes_bf16() -> bool:
    """Tell whether the first GPU computes in bf16 itself; older ones do it in fp32."""
    import torch

    return bool(torch.cuda.is_bf16_supported(including_emulation=False))


def recipe_of(one: Training, smallest: bool, micro_batch: int | None = None) -> dict[str, Any]:
    """Return the recipe of a training; its models and data are in the work folder, which is the recipe's."""
    sizes, tunes = Sizes.of(smallest), one.stage != "cpt"
    micro = micro_batch or sizes.micro_batch
    interval = sizes.steps if one.saves else 10_000
    sections: dict[str, Any] = {
        "kind": "sft" if tunes else "cpt",
        "name": "gpu-kit",
        "model": {
            "path": f"./{one.shape}",
            "compile": one.compile,
            "activation_checkpointing": one.recomputes,
            "attention": one.attention,
        },
        "batch": {
            "global_batch": f"{micro * one.gpus} sequences",
            "micro_batch": micro,
            "sequence_length": sizes.sequence_length,
        },
        "optim": {"lr": 1e-4},
        "schedule": {"length": "10000 steps", "warmup": "10 steps"},
        "precision": {"dtype": one.dtype},
        "parallel": {"strategy": one.strategy},
        "checkpoint": {"interval": f"{interval} steps", "keep": 1, "async": one.saves == "behind"},
        "tracking": {"mode": "disabled"},
        "resources": {"nodes": 1, "gpus_per_node": one.gpus, "cpus_per_task": 2, "time": "1h"},
        "data": {"corpora": [{"name": CORPUS}]},
    }
    if tunes:
        source = {"name": SOURCE, "files": f"{SOURCE}.json", "format": "alpaca"}
        sections["data"] = {"sources": [source], "chat_template": "alpaca", "packing": one.packing or "pad"}
    if one.stage in ("lora", "qlora"):
        sections["adapter"] = LORA
    if one.stage == "qlora":
        sections["model"]["quantization"] = {"bits": 4}
    return sections
