"""What our training on preferences costs beside TRL's: tokens/s and peak memory of `kind: dpo` and of plain DPOTrainer.

Same model, same token ids, same batches, same optimizer and schedule, same loss and reference, both at the same time in
one process with one thread, on a core each; the ratio of speeds is the median over steps, each beside the same one of
the other, and the losses of both have to agree. TRL's trainer has its defaults but for what the recipe says. The model
is a Llama of random weights with a vocabulary of 32,000, the text MedQuAD's: the preferred answer of a question is its
own, the other one the next question's. All weights are trained, beside a frozen copy, or, with `--adapter lora`, a
LoRA.

    python bench/align.py [--adapter lora] [--rounds 3] [--steps 10] [--json] [--smallest]
"""

import gzip
import json
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

from bench.support.beside_trl import (
    LORA,
    SOURCE,
    TEXT,
    Measured,
    Work,
    lora_config,
    main,
    model_folder,
    parse,
    train_by_trl,
    trl_settings,
)
from launcher.run.paths import RunDir
from tests.support.training_runs import cpt_recipe

BATCH = {"global_batch": "4 sequences", "micro_batch": 2, "sequence_length": 256}
BETA = 0.2


def _make_pairs(folder: Path) -> None:
    """Write MedQuAD's questions, each with its own answer and the next question's."""
    records = json.loads(gzip.decompress((folder / TEXT).read_bytes()))
    pairs = [
        {"question": one["instruction"], "response_chosen": one["output"], "response_rejected": other["output"]}
        for one, other in zip(records, [*records[1:], records[0]], strict=True)
    ]
    (folder / "pairs.json").write_text(json.dumps([pair for pair in pairs if len(set(pair.values())) == 3]))


def _recipe(steps: int, adapter: dict[str, Any] | None) -> dict[str, Any]:
    source = {"name": SOURCE, "files": "pairs.json", "format": "question"}
    return cpt_recipe(
        kind="dpo",
        model={"path": "./model"},
        adapter=adapter,
        batch=BATCH,
        beta=BETA,
        optim={"lr": 1e-4},
        schedule={"length": f"{steps} steps", "warmup": "2 steps"},
        checkpoint={"interval": f"{steps} steps"},
    ) | {"data": {"sources": [source], "chat_template": "plain", "too_long": "truncate", "max_bad_fraction": 0.1}}


def trl_run(run: RunDir) -> Measured:
    """Train as the recipe of a run says, by TRL's trainer."""
    import torch
    import trl
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from launcher.recipe import DpoRecipe

    class TokenizedDpoTrainer(trl.DPOTrainer):
        """Takes pairs that are tokens already."""

        def _prepare_dataset(self, dataset: Any, *_: Any) -> Any:
            return dataset

    recipe = DpoRecipe.model_validate_json(run.recipe.read_bytes())
    config = trl.DPOConfig(
        **trl_settings(run, recipe),
        beta=recipe.beta,
        max_length=recipe.batch.sequence_length,
        activation_checkpointing=False,
        train_sampling_strategy="sequential",
    )
    model = AutoModelForCausalLM.from_pretrained(model_folder(run), dtype=torch.float32)
    torch.manual_seed(recipe.seed)
    trainer = TokenizedDpoTrainer(
        model=model,
        args=config,
        train_dataset=_pairs(run, recipe, recipe.schedule.length.value * recipe.batch.sequences),
        processing_class=AutoTokenizer.from_pretrained(model_folder(run)),
        peft_config=lora_config(recipe),
    )
    return train_by_trl(trainer, recipe)


def _pairs(run: RunDir, recipe: Any, count: int) -> Any:
    """Our pairs, in the order in which our job reads them, as TRL wants them."""
    from fractions import Fraction

    from datasets import Dataset

    from jobs.data.chat.tokenised_source import finished_source
    from jobs.data.preferences.samples import shuffled_pairs
    from jobs.data.preferences.store import open_pairs

    source = finished_source(run.examples, SOURCE)
    assert source is not None
    samples = shuffled_pairs(open_pairs(run.examples, [source], "train"), [Fraction(1)], recipe.seed, count)
    rows: dict[str, list[list[int]]] = {"prompt_ids": [], "chosen_ids": [], "rejected_ids": []}
    for index in range(count):
        chosen, rejected = (samples[index][side] for side in ("chosen", "rejected"))
        asked = int(chosen.is_answer.argmax())
        for name, ids in zip(rows, (chosen.ids[:asked], chosen.ids[asked:], rejected.ids[asked:]), strict=True):
            rows[name].append(ids.tolist())
    return Dataset.from_dict(rows)


if __name__ == "__main__":
    options = parse(__doc__, steps=10, has_adapter=True)
    recipe = _recipe(options.steps, LORA if options.adapter else None)
    sys.exit(main(__file__, options, Work(recipe, trl_run, prepare=_make_pairs, sequences=4)))
