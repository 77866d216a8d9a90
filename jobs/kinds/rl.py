"""kind: rl - reinforcement learning: a language model answers questions and learns from rewards for its answers."""

from functools import partial

from datasets import concatenate_datasets
from transformers import AutoModelForCausalLM

from jobs.data.chat.prompts import PromptOrder, make_prompts, open_prompts
from jobs.data.chat.tokenised_source import renderer_of
from jobs.models.build import build, check_positions, check_rows, let_stop, weights_dtype
from jobs.models.dropout import without_dropout
from jobs.models.value_head import remove_value_head
from jobs.rank.context import Context
from jobs.rank.process_group import wait_for_main
from jobs.train.during import EvaluationDuringTraining
from jobs.train.rl_trainers import Questions, begin, make_trainer
from jobs.train.rollouts.heldout import HeldOutRewards
from jobs.train.rollouts.open_rewards import open_rewards
from jobs.train.run import training_run
from launcher.errors import LauncherError
from launcher.recipe import RlRecipe


def main(context: Context) -> None:
    """Train until the recipe's length is reached, and export the policy.

    Raises:
        StopRequested: a stop was asked for before the end, and everything is saved.
    """
    with training_run(context, RlRecipe) as run:
        if run.is_exported:
            return
        recipe, batch = run.recipe, run.recipe.batch

        names, folder = [source.name for source in recipe.data.sources], context.run.examples
        wait_for_main(run.group, partial(make_prompts, context, recipe, folder))
        sources, held_out = open_prompts(folder, names), concatenate_datasets(open_prompts(folder, names, "validation"))
        if recipe.data.validation and not len(held_out):
            raise LauncherError("data.validation: no prompt was held out; write more, or leave it out")
        order = PromptOrder(recipe, sources)
        epoch = recipe.samples_in_epoch(list(map(len, sources)))
        steps = batch.steps(recipe.schedule.length, epoch)

        begin(run, steps, epoch)
        renderer = renderer_of(context, recipe)
        path = context.model_path(recipe.model.path)
        policy = build(AutoModelForCausalLM, recipe.model, path, recipe.seed, weights_dtype(recipe))
        check_positions(policy, batch, recipe.virtual_tokens)
        check_rows(policy.config.get_text_config().vocab_size, max(renderer.tokenizer.get_vocab().values()) + 1)
        stops = let_stop(policy, renderer.end_of_answer)
        references = [*order.rows["reference"], *held_out["reference"]]
        rewards = open_rewards(context, recipe, renderer.tokenizer, references, run.group.device)

        run.print(f"{len(order.rows):,} prompts")
        questions = Questions(order, renderer.tokenizer, stops)
        during = []
        if recipe.data.validation:
            evaluate = HeldOutRewards(recipe, held_out, renderer.tokenizer, stops, rewards)
            during = [EvaluationDuringTraining(batch.steps(recipe.evaluation.interval, epoch), evaluate)]
        trainer = make_trainer(run, without_dropout(run.adapt(policy)), questions, rewards, during)
        run.train(trainer, during)
        remove_value_head(trainer.accelerator.unwrap_model(trainer.model))
        run.export(trainer, names, chat_template=renderer.template)
