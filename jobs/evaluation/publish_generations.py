"""Publish generated texts, in the order of their prompts."""

import hashlib
import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from jobs.evaluation.batches import BatchFolder, Row
from jobs.evaluation.engines import engine_versions
from jobs.evaluation.loaded_model import LoadedModel
from jobs.evaluation.prompt_files import EncodedPrompt, PromptSet
from jobs.rank.atomic_files import replace_durably, write_durably
from jobs.rank.context import Context
from launcher.artifacts.generations import TEXTS, Generations
from launcher.recipe.kinds.generate import GenerateRecipe
from launcher.run.paths import GENERATIONS

_AT_ONCE = 1000


def publish_generations(
    context: Context, recipe: GenerateRecipe, model: LoadedModel, prompts: PromptSet, folder: BatchFolder
) -> Iterator[None]:
    """Write `generations.jsonl` and finally `generations.json`; for rank 0.

    Args:
        context: The run.
        recipe: The run's.
        model: What wrote the texts.
        prompts: What they were written for.
        folder: Their finished batches.
    """
    rows = folder.read()
    outputs, sha256 = context.run.outputs, hashlib.sha256()
    with replace_durably(outputs / TEXTS) as file:
        for number, (prompt, row) in enumerate(zip(prompts.prompts, rows, strict=True)):
            line = (json.dumps(_line(prompt, row), ensure_ascii=False) + "\n").encode("utf-8", "replace")
            file.write(line)
            sha256.update(line)
            if not number % _AT_ONCE:
                yield
    content = Generations(
        run=context.record.id,
        name=recipe.name,
        data_use=recipe.data_use,
        model=model.record,
        engine=recipe.engine,
        versions=engine_versions(model) | {"launcher": context.code_version},
        decoding=recipe.decoding.model_dump(mode="json"),
        seed=recipe.seed,
        items=len(rows),
        tokens=sum(row["tokens"] for row in rows),
        finish=dict(sorted(Counter(row["finish"] for row in rows).items())),
        counts=prompts.counts,
        files=prompts.files,
        sha256=sha256.hexdigest(),
    )
    write_durably(outputs / GENERATIONS, content.model_dump_json(indent=1) + "\n")


def are_published(outputs: Path) -> bool:
    """Tell whether all texts are there."""
    return (outputs / GENERATIONS).is_file()


def read_generations(outputs: Path) -> Generations:
    """Read what was published."""
    return Generations.model_validate_json((outputs / GENERATIONS).read_bytes())


def describe_generations(made: Generations) -> str:
    """Say in a line what was made; quotes no text."""
    ended = ", ".join(f"{count:,} {reason}" for reason, count in made.finish.items())
    counted = "".join(f"; {count:,} {what}" for what, count in made.counts.items())
    return f"{made.items:,} texts, {made.tokens:,} tokens (ended by: {ended}{counted})"


def _line(prompt: EncodedPrompt, row: Row) -> dict[str, Any]:
    kept = {} if prompt.prompt is None else {"prompt": prompt.prompt}
    told = {name: row[name] for name in ("text", "tokens", "finish")}
    return {"id": prompt.request.id, "prompt_sha256": prompt.sha256, **kept, **told}
