"""kind: dpo - a language model learns to prefer one of two answers, without a reward model."""

from collections.abc import Callable
from functools import partial
from typing import Any

from transformers import AutoModelForCausalLM, EvalPrediction, PreTrainedModel

from jobs.data.preferences.prepared import PreparedPairs, prepare_pairs
from jobs.data.preferences.samples import Collator, answer_collator, single_collator
from jobs.models.build import build, check_positions, check_rows, let_stop, weights_dtype
from jobs.models.dropout import without_dropout
from jobs.rank.context import Context
from jobs.scoring.pairs import publish_pair_scores, score_pairs
from jobs.train.heldout_loss import HeldOutLoss
from jobs.train.pair_losses import arguments_of, trainer_of
from jobs.train.precomputed import PrecomputedLogProbs
from jobs.train.reference import REFERENCE
from jobs.train.run import TrainingRun, training_run
from launcher.recipe import DpoRecipe


def main(context: Context) -> None:
    """Train until the recipe's length is reached; publish scores of held-out pairs, and the model.

    Raises:
        StopRequested: a stop was asked for before the end, and everything is saved.
    """
    with training_run(context, DpoRecipe) as run:
        if run.is_exported:
            return
        recipe, batch = run.recipe, run.recipe.batch

        pairs = prepare_pairs(context, recipe, run.group)
        length, interval = recipe.schedule.length, recipe.evaluation.interval
        steps, evaluation = (batch.steps(one, pairs.epoch) for one in (length, interval))
        cycle = batch.sequences if recipe.loss == "kto" else 0
        samples = pairs.to_train_on(recipe.seed, steps * batch.sequences, cycle)

        arguments_class, arguments = arguments_of(recipe)
        run.begin(
            steps,
            pairs.epoch,
            arguments_class,
            [REFERENCE] if recipe.reference.sync else [],
            per_device_eval_batch_size=batch.least_micro_batch,
            **arguments,
        )
        model = _build(run, recipe.model.path)
        end_of_answer = pairs.renderer.end_of_answer
        check_positions(model, batch, recipe.virtual_tokens)
        check_rows(model.config.get_text_config().vocab_size, max(pairs.renderer.tokenizer.get_vocab().values()) + 1)
        let_stop(model, end_of_answer)

        adapted = run.adapt(model)
        trainer = run.trainer(
            adapted if recipe.dropout else without_dropout(adapted),
            samples,
            _collator(recipe, end_of_answer),
            trainer_class=trainer_of(recipe),
            callbacks=[HeldOutLoss(evaluation)] if pairs.held_out else [],
            tokens_per_sequence=pairs.mean_tokens,
            eval_dataset=pairs.held_out,
            compute_metrics=partial(_score_held_out, pairs),
            **_reference(run, pairs),
        )
        run.train(trainer)
        if pairs.held_out:
            trainer.compute_metrics = None  # what it says would be logged as an evaluation
            found = pairs.rewarded(trainer.predict(pairs.held_out).predictions)
            resampling = (recipe.evaluation.resamples, recipe.seed)
            facts = {"data_use": recipe.data_use, "beta": recipe.beta}
            if run.group.is_main:
                print(publish_pair_scores(context.run.outputs, found, resampling, facts), flush=True)
        run.export(trainer, pairs.names, chat_template=pairs.renderer.template)


def _collator(recipe: DpoRecipe, pad: int) -> Collator:
    return single_collator(pad, recipe.batch.sequence_length) if recipe.loss == "kto" else answer_collator(pad)


def _build(run: TrainingRun[DpoRecipe], name: str) -> PreTrainedModel:
    recipe, path = run.recipe, run.context.model_path(name)
    return build(AutoModelForCausalLM, recipe.model, path, recipe.seed, weights_dtype(recipe))


def _reference(run: TrainingRun[DpoRecipe], pairs: PreparedPairs) -> dict[str, Any]:
    """Return what the trainer needs to know of the reference."""
    recipe, wanted = run.recipe, run.recipe.reference
    builds: Callable[[], PreTrainedModel] | None = None
    if recipe.loads_frozen_copy:
        builds = partial(_build, run, wanted.model or recipe.model.path)
    kept = None
    if wanted.precompute:
        collator, batch = answer_collator(pairs.renderer.end_of_answer), recipe.batch.least_micro_batch
        folder = run.context.run.examples / "reference"
        kept = PrecomputedLogProbs(folder, pairs.everything(), collator, batch, run.group)
    return {"group": run.group, "build_reference": builds, "sync": wanted.sync, "precomputed": kept}


def _score_held_out(pairs: PreparedPairs, said: EvalPrediction) -> dict[str, float]:
    return score_pairs(pairs.rewarded(said.predictions))
