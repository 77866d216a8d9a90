"""What our reinforcement learning costs beside TRL's: seconds a step and peak memory of `kind: rl` and of GRPOTrainer.

Same model, same prompt tokens in the same order, same random numbers, same reward and optimizer, both at the same time
in one process with one thread, on a core each; the ratio of speeds is the median over steps, each beside the same one
of the other, and the rewards of both have to agree. The model is a Llama of random weights with a vocabulary of 32,000,
the prompts are MedQuAD's questions, the reward is the share of one token, which the model says now and then. All
weights are trained.

    python bench/grpo.py [--rounds 3] [--steps 12] [--json] [--smallest]
"""

import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

from bench.support.beside_trl import SOURCE, TEXT, Measured, Work, main, model_folder, parse, train_by_trl, trl_settings
from launcher.run.paths import RunDir
from tests.support.training_runs import cpt_recipe

BATCH = {"global_batch": "8 sequences", "micro_batch": 8, "sequence_length": 160}
NEW_TOKENS, GENERATIONS = 32, 4
TOKEN = "▁the"


def _recipe(steps: int) -> dict[str, Any]:
    source = {"name": SOURCE, "files": TEXT, "format": "alpaca"}
    return cpt_recipe(
        kind="rl",
        model={"path": "./model"},
        batch=BATCH,
        algorithm={"name": "grpo", "generations": GENERATIONS},
        generation={"max_new_tokens": NEW_TOKENS},
        rewards=[{"type": "token", "token": TOKEN}],
        optim={"lr": 1e-6},
        schedule={"length": f"{steps} steps", "warmup": "2 steps"},
        checkpoint={"interval": f"{steps} steps"},
    ) | {"data": {"sources": [source], "chat_template": "plain", "too_long": "truncate"}}


def trl_run(run: RunDir) -> Measured:
    """Train as the recipe of a run says, by TRL's trainer."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from trl.trainer.grpo_config import GRPOConfig
    from trl.trainer.grpo_trainer import GRPOTrainer

    from jobs.data.chat.prompts import PromptOrder, open_prompts
    from launcher.recipe import RlRecipe

    class TokenizedGrpoTrainer(GRPOTrainer):
        """Takes prompts that are tokens already."""

        def _tokenize_prompts(self, prompts: Any) -> Any:
            return prompts, None, {}

    recipe = RlRecipe.model_validate_json(run.recipe.read_bytes())
    config = GRPOConfig(
        **trl_settings(run, recipe),
        num_generations=GENERATIONS,
        max_completion_length=NEW_TOKENS,
        seed=recipe.seed,
        shuffle_dataset=False,
        activation_checkpointing=False,
    )
    order, rollouts = PromptOrder(recipe, open_prompts(run.examples, [SOURCE])), range(recipe.schedule.length.value)
    in_order = [one for rollout in rollouts for one in order.numbers(rollout, recipe.rollout // GENERATIONS)]
    tokenizer = AutoTokenizer.from_pretrained(model_folder(run))
    token = tokenizer.get_vocab()[TOKEN]

    def share(completion_ids: list[list[int]], **_: Any) -> list[float]:
        spoken = [ids[:-1] if ids[-1] == tokenizer.eos_token_id else ids for ids in completion_ids]
        return [ids.count(token) / max(1, len(ids)) for ids in spoken]

    trainer = TokenizedGrpoTrainer(
        model=AutoModelForCausalLM.from_pretrained(model_folder(run), dtype=torch.float32),
        reward_funcs=share,
        args=config,
        train_dataset=order.rows.select(in_order),
        processing_class=tokenizer,
    )
    return train_by_trl(trainer, recipe, value="reward")


def favour_token(folder: Path) -> None:
    """Make the model say the token that is rewarded in some places, so that rewards differ and there is a gradient."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = AutoModelForCausalLM.from_pretrained(folder / "model")
    token = AutoTokenizer.from_pretrained(folder / "model").get_vocab()[TOKEN]
    embeddings: Any = model.get_output_embeddings()
    embeddings.weight.data[token] *= 24
    model.save_pretrained(folder / "model")


if __name__ == "__main__":
    options = parse(__doc__, steps=12, has_adapter=False)
    sys.exit(main(__file__, options, Work(_recipe(options.steps), trl_run, value="reward", prepare=favour_token)))
