"""Texts that a `generate` made: `outputs/generations.jsonl`, and what they are in `outputs/generations.json`.

Each line has `id`, `prompt_sha256`, `text`, `tokens` (how many the model made, with the one that ended the text),
`finish` (`stop` or `length`) and, if the recipe keeps prompts, `prompt`; lines are in the order of the prompts.
"""

from typing import Any

from pydantic import BaseModel, ConfigDict

from launcher.artifacts.scores import ScoredFile

TEXTS = "generations.jsonl"


class Generations(BaseModel):
    """Content of generations.json, which is written last."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    run: str
    name: str
    """Of the recipe."""
    data_use: str
    model: dict[str, Any]
    """Path, checksums, adapters and number format."""
    engine: str = "transformers"
    """What computed the texts."""
    versions: dict[str, str]
    """Of the libraries that made the texts, and of the launcher."""
    decoding: dict[str, Any]
    seed: int
    items: int
    tokens: int
    """Of all texts."""
    finish: dict[str, int]
    """How many texts ended for each reason."""
    counts: dict[str, int] = {}
    """Prompts that were left out or treated in a special way, by what was done."""
    files: tuple[ScoredFile, ...]
    """Where the prompts come from."""
    sha256: str
    """Of generations.jsonl."""
