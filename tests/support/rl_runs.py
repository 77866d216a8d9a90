"""Runs of reinforcement learning for tests: real questions, a real small Llama, a reward that is easily learned."""

import shutil
from pathlib import Path
from typing import Any

from launcher.run.ledger import read_json_lines
from launcher.run.paths import RunDir
from tests.support.training_runs import ASSETS, cpt_recipe, make_run_of

TOKEN = "▁the"
"""A token that the small Llama says now and then."""


def rl_recipe(algorithm: dict[str, Any], **changes: Any) -> dict[str, Any]:
    """A small `rl` recipe for CPUs; keywords replace its sections' keys."""
    source = {"name": "medquad", "files": "medquad_80.json.gz", "format": "alpaca"}
    sections: dict[str, Any] = {
        "kind": "rl",
        "batch": {"global_batch": "8 sequences", "micro_batch": 2, "sequence_length": 96},
        "generation": {"max_new_tokens": 8},
        "schedule": {"length": "4 steps", "warmup": "0 steps"},
        "rewards": [{"type": "token", "token": TOKEN}],
        "samples": {"interval": 2, "count": 2},
    }
    held_out = changes.pop("data", {})
    for name, value in changes.items():
        sections[name] = {**sections[name], **value} if isinstance(sections.get(name), dict) else value
    data = {"sources": [source], "chat_template": "plain", "too_long": "truncate", **held_out}
    return cpt_recipe(**sections) | {"data": data, "algorithm": algorithm}


def make_rl(folder: Path, algorithm: dict[str, Any], **changes: Any) -> RunDir:
    """Make the run directory of an `rl` recipe, and its data."""
    if not (folder / "medquad_80.json.gz").exists():
        shutil.copy(ASSETS / "medquad_80.json.gz", folder)
    return make_run_of(rl_recipe(algorithm, **changes), folder)


def told(run: RunDir, *names: str) -> dict[int, tuple[Any, ...]]:
    """What was logged of each step, the last attempt's word where steps were done again."""
    return {row["step"]: tuple(row.get(name) for name in names) for row in read_json_lines(run.metrics)}
