"""The ways of training whose behaviour in each strategy is on record, the record, and the table made of it."""

import fcntl
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import date
from importlib.metadata import version
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from launcher.recipe import read_recipe
from tests.support.preference_runs import preference_recipe
from tests.support.rl_runs import rl_recipe
from tests.support.training_runs import cpt_recipe

DOCS = Path(__file__).parents[2] / "docs"
RESULTS = DOCS / "strategies.json"
PAGE = DOCS / "recipes.md"
BEGIN, END = "<!-- strategies: begin -->\n", "<!-- strategies: end -->\n"
STRATEGIES = ("ddp", "full_shard", "hybrid_shard", "zero2", "zero3")
STEPS = 8
LIBRARIES = ("torch", "transformers", "accelerate", "peft", "deepspeed", "bitsandbytes")
WORDS = {"equal": "yes", "refused": "no", "failed": "fails"}

Results = dict[str, dict[str, dict[str, str]]]
"""Variant -> strategy -> outcome and date."""


@dataclass(frozen=True)
class Variant:
    """A way of training: an adapter, or all weights, of a kind."""

    name: str
    adapter: dict[str, Any] | None
    model: dict[str, Any] = field(default_factory=dict)
    corpus: str = "words"
    packing: str = "packed"
    kind: str = "cpt"
    own: dict[str, Any] = field(default_factory=dict)
    """Sections that only this kind has."""

    def recipe(self, strategy: str, name: str) -> dict[str, Any]:
        """A short training of it, which saves when it is stopped and at its end."""
        ranks_per_node = 2 if strategy == "hybrid_shard" else 1  # weights are cut over the ranks of a node
        sections: dict[str, Any] = {
            "name": name,
            "model": {"path": "stories260k", **self.model},
            "adapter": self.adapter,
            "schedule": {"length": f"{STEPS} steps", "warmup": "0 steps"},
            "precision": {"dtype": "bf16" if "quantization" in self.model else "fp32"},
            "parallel": {"strategy": strategy},
            "checkpoint": {"interval": "100 steps"},
            "resources": {"nodes": 2, "gpus_per_node": ranks_per_node},
            **self.own,
        }
        if self.kind == "rl":
            return rl_recipe(**sections)
        if self.kind != "cpt":
            return preference_recipe(self.kind, **sections)
        return cpt_recipe(data={"corpora": [{"name": self.corpus}], "packing": self.packing}, **sections)

    def is_refused(self, strategy: str) -> bool:
        """Whether validation refuses it, for no other fault than the strategy."""
        try:
            read_recipe(json.dumps(self.recipe(strategy, "refused")))
        except ValidationError as error:
            [fault] = error.errors()
            assert "strategy" in fault["msg"], fault
            return True
        return False


_VOWELS = [{"type": "format", "pattern": ".*[aeiou]"}]
"""About half of the completions end so."""
_RLOO = {"algorithm": {"name": "rloo", "iterations": 2}, "rewards": _VOWELS}
_PPO = {"algorithm": {"name": "ppo", "iterations": 2}, "rewards": _VOWELS}

VARIANTS = (
    Variant("all weights", None),
    Variant("lora", {"method": "lora", "r": 8, "dropout": 0.1}),
    Variant("lora, rslora", {"method": "lora", "r": 8, "rslora": True}),
    Variant("lora, dora", {"method": "lora", "r": 8, "dora": True}),
    Variant("lora, pissa", {"method": "lora", "r": 8, "init": "pissa"}),
    Variant("lora, 4 bits", {"method": "lora", "r": 8}, {"quantization": {"bits": 4}}),
    Variant("lora, 8 bits", {"method": "lora", "r": 8}, {"quantization": {"bits": 8}}),
    Variant(
        "lora, new embeddings",
        {"method": "lora", "r": 8, "embeddings": "new"},
        {"tokenizer": "expanded"},
        corpus="abstracts",
    ),
    Variant(
        "lora on adapters",
        {"method": "lora", "r": 8, "dropout": 0.1},
        {"adapters": [{"path": "clinical"}, {"path": "clinical", "trainable": True}]},
    ),
    Variant("adalora", {"method": "adalora", "init_r": 6, "target_r": 2, "tinit": "1 steps", "tfinal": "1 steps"}),
    Variant("ia3", {"method": "ia3"}),
    Variant("oft", {"method": "oft", "block_size": 4}),
    Variant("adaption_prompt", {"method": "adaption_prompt", "length": 4, "layers": 3}),
    Variant("prefix", {"method": "prefix", "virtual_tokens": 4}, packing="truncate"),
    Variant("prompt", {"method": "prompt", "virtual_tokens": 4}, packing="truncate"),
    Variant("p_tuning", {"method": "p_tuning", "virtual_tokens": 4, "hidden": 16}, packing="truncate"),
    Variant("molora", {"method": "molora", "r": 4, "alpha": 8, "dropout": 0.1, "experts": 5, "balance": 0.01}),
    Variant(
        "orthogonal",
        {"method": "orthogonal", "start_from": "mixture", "base_r": 8, "r": 6, "alpha": 12, "lambda1": 0.01},
    ),
    *(
        Variant(f"`{kind}`, {algorithm}{weights}", adapter, kind=kind, own=own)
        for kind, algorithm, own in (
            ("reward", "", {}),
            ("dpo", "", {}),
            ("rl", "rloo, ", _RLOO),
            ("rl", "ppo, ", _PPO),
        )
        for weights, adapter in (("all weights", None), ("lora", {"method": "lora", "r": 8}))
    ),
)


def read_results() -> Results:
    """What is on record."""
    found: Results = json.loads(RESULTS.read_text(encoding="utf-8"))["results"]
    return found


@contextmanager
def recorded(variant: Variant, strategy: str, outcome: str) -> Iterator[None]:
    """Put on record that a block of code ran to its end, which means `outcome`, or that it failed."""
    try:
        yield
    except Exception:
        _record(variant, strategy, "failed")
        raise
    _record(variant, strategy, outcome)


def _record(variant: Variant, strategy: str, outcome: str) -> None:
    """Write it down at once. What was seen with other libraries or elsewhere is no longer on record."""
    facts = {"machine": f"{os.cpu_count()} cores, CPUs, gloo", "libraries": {name: version(name) for name in LIBRARIES}}
    with RESULTS.open("a+", encoding="utf-8") as file:
        fcntl.flock(file, fcntl.LOCK_EX)  # pytest-xdist runs several tests at once
        file.seek(0)
        known = json.loads(file.read() or "{}")
        results = known["results"] if {**known, **facts} == known else {}
        results.setdefault(variant.name, {})[strategy] = {"outcome": outcome, "date": str(date.today())}
        file.truncate(0)
        file.write(json.dumps({**facts, "results": results}, indent=1, sort_keys=True) + "\n")
        before, _, rest = PAGE.read_text(encoding="utf-8").partition(BEGIN)
        PAGE.write_text(before + BEGIN + table(results) + END + rest.partition(END)[2], encoding="utf-8")


def table(results: Results) -> str:
    """What was seen, for people."""

    def word(variant: Variant, strategy: str) -> str:
        seen = results.get(variant.name, {}).get(strategy)
        return WORDS[seen["outcome"]] if seen else "not tried"

    head = ["", *(f"`{strategy}`" for strategy in STRATEGIES)]
    rows = [[variant.name, *(word(variant, strategy) for strategy in STRATEGIES)] for variant in VARIANTS]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (head, ["---"] * len(head), *rows)) + "\n"


def written_table() -> str:
    """The table in the docs."""
    return PAGE.read_text(encoding="utf-8").partition(BEGIN)[2].partition(END)[0]
