"""kind: reward - a head on a language model learns which of two answers people prefer."""

from functools import partial

from transformers import EvalPrediction
from trl.trainer.reward_config import RewardConfig

from jobs.data.preferences.prepared import PreparedPairs, prepare_pairs
from jobs.data.preferences.samples import reward_collator
from jobs.models.build import check_positions, check_rows, published_config, weights_dtype
from jobs.models.classifier import build_classifier, reward_head
from jobs.models.dropout import without_dropout
from jobs.models.tokenizer import padding_token
from jobs.rank.context import Context
from jobs.rank.process_group import RankGroup
from jobs.scoring.pairs import publish_pair_scores, score_pairs
from jobs.train.best_checkpoint import BestCheckpoint, best_first, describe_best
from jobs.train.reward_trainer import GuardedRewardTrainer
from jobs.train.run import training_run
from launcher.errors import LauncherError
from launcher.recipe import RewardRecipe


def main(context: Context) -> None:
    """Train until the recipe's length is reached; publish scores of held-out pairs and the best model.

    Raises:
        StopRequested: a stop was asked for before the end, and everything is saved.
    """
    with training_run(context, RewardRecipe) as run:
        if run.is_exported:
            return
        recipe, batch, evaluation = run.recipe, run.recipe.batch, run.recipe.evaluation

        pairs = prepare_pairs(context, recipe, run.group)
        if pairs.held_out is None:
            raise LauncherError("data.validation: no pair was held out to choose the best checkpoint; write more")
        steps, interval = (batch.steps(length, pairs.epoch) for length in (recipe.schedule.length, evaluation.interval))
        samples = pairs.to_train_on(recipe.seed, steps * batch.sequences)

        run.begin(
            steps,
            pairs.epoch,
            RewardConfig,
            center_rewards_coefficient=recipe.center,
            per_device_eval_batch_size=batch.least_micro_batch,
        )
        tokenizer, path = pairs.renderer.tokenizer, context.model_path(recipe.model.path)
        # Before the model is built: that fails if the padding token has no row.
        rows = published_config(recipe.model, path).get_text_config().vocab_size
        check_rows(rows, max(tokenizer.get_vocab().values()) + 1)
        pad_token = padding_token(tokenizer, recipe.model.path)
        pad = tokenizer.get_vocab()[pad_token]
        model = build_classifier(recipe.model, path, recipe.seed, weights_dtype(recipe), reward_head(pad))
        check_positions(model, batch, recipe.virtual_tokens)

        adapted = run.adapt(model, "SEQ_CLS")
        trainer = run.trainer(
            adapted if recipe.dropout else without_dropout(adapted),
            samples,
            reward_collator(pad, with_margin=any(source.margin for source in recipe.data.sources)),
            trainer_class=GuardedRewardTrainer,
            callbacks=[BestCheckpoint(evaluation.metric, evaluation.is_lower_better, interval)],
            tokens_per_sequence=pairs.mean_tokens,
            eval_dataset=pairs.held_out,
            compute_metrics=partial(_score_held_out, run.group, pairs),
        )
        run.train(trainer)
        trainer.load_best(partial(best_first, context.run, evaluation.metric, evaluation.is_lower_better))
        trainer.compute_metrics = None  # what it says would be logged as an evaluation
        found = pairs.rewarded(trainer.predict(pairs.held_out).predictions)
        if run.group.is_main:
            facts = {
                "data_use": recipe.data_use,
                "metric": evaluation.metric,
                "best_step": trainer.state.best_global_step,
            }
            print(describe_best(trainer.state, evaluation.metric))
            print(
                publish_pair_scores(context.run.outputs, found, (evaluation.resamples, recipe.seed), facts), flush=True
            )
        run.export(trainer, pairs.names, pad_token=pad_token, chat_template=pairs.renderer.template)


def _score_held_out(group: RankGroup, pairs: PreparedPairs, said: EvalPrediction) -> dict[str, float]:
    """Score an evaluation: rank 0 for all, so that all ranks take the same checkpoint for the best."""
    found = pairs.rewarded(said.predictions)
    return group.from_main(score_pairs(found) if group.is_main else {})
