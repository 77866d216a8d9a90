"""What our fine-tuning costs beside TRL's: tokens/s and peak memory of `kind: sft` and of plain SFTTrainer.

Same model, same token ids and answer masks, same batches, same optimizer and schedule, both at the same time in one
process with one thread, on a core each; the ratio of speeds is the median over steps, each beside the same one of the
other, and the losses of both have to agree. TRL's trainer has its defaults but for what the recipe says. The model is a
Llama of random weights with a vocabulary of 32,000, the text MedQuAD's; all weights are trained or, with `--adapter
lora`, a LoRA.

    python bench/sft.py [--adapter lora] [--rounds 3] [--steps 12] [--json] [--smallest]
"""

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
from bench.support.sft_examples import sft_examples
from launcher.run.paths import RunDir
from tests.support.training_runs import cpt_recipe

LEAST_SPEED, MOST_MEMORY = 2.2, 0.7
"""On CPUs TRL's trainer computes the logits of all positions, so its limits for equal work would show nothing here."""
BATCH = {"global_batch": "8 sequences", "micro_batch": 4, "sequence_length": 512}


def _recipe(steps: int, adapter: dict[str, Any] | None) -> dict[str, Any]:
    source = {"name": SOURCE, "files": TEXT, "format": "alpaca"}
    return cpt_recipe(
        kind="sft",
        model={"path": "./model"},
        adapter=adapter,
        batch=BATCH,
        schedule={"length": f"{steps} steps", "warmup": "2 steps"},
        checkpoint={"interval": f"{steps} steps"},
    ) | {"data": {"sources": [source], "chat_template": "alpaca", "packing": "pad"}}


def trl_run(run: RunDir) -> Measured:
    """Train as the recipe of a run says, by TRL's trainer."""
    import torch
    import trl
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from launcher.recipe import SftRecipe

    recipe = SftRecipe.model_validate_json(run.recipe.read_bytes())
    config = trl.SFTConfig(
        **trl_settings(run, recipe),
        max_length=recipe.batch.sequence_length,
        completion_only_loss=True,
        gradient_checkpointing=False,
        train_sampling_strategy="sequential",
    )
    model = AutoModelForCausalLM.from_pretrained(model_folder(run), dtype=torch.float32)
    torch.manual_seed(recipe.seed)
    trainer = trl.SFTTrainer(
        model=model,
        args=config,
        train_dataset=sft_examples(run, recipe, SOURCE, recipe.schedule.length.value * recipe.batch.sequences),
        processing_class=AutoTokenizer.from_pretrained(model_folder(run)),
        peft_config=lora_config(recipe),
    )
    return train_by_trl(trainer, recipe)


if __name__ == "__main__":
    options = parse(__doc__, steps=12, has_adapter=True)
    recipe = _recipe(options.steps, LORA if options.adapter else None)
    # TRL logs four decimals or so.
    limits = {"least_speed": LEAST_SPEED, "most_memory": MOST_MEMORY}
    sys.exit(main(__file__, options, Work(recipe, trl_run, tolerance=2e-3, sequences=8, **limits)))
