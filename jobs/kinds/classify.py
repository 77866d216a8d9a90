"""kind: classify - a head on a language model or an encoder learns the labels of notes."""

from fractions import Fraction
from functools import partial

from transformers import EvalPrediction

from jobs.data.labelled.notes import LabelledNotes, read_notes
from jobs.data.labelled.samples import NoteCollator, TrainingSamples, mean_tokens
from jobs.data.labelled.tables import class_counts
from jobs.models.build import check_positions, check_rows, published_config, weights_dtype
from jobs.models.classifier import ClassificationLoss, balanced_weights, build_classifier, head_settings
from jobs.rank.context import Context
from jobs.rank.process_group import RankGroup, wait_for_main
from jobs.scoring.classification import compute_scores
from jobs.scoring.publish import SplitPredictions, describe_scores, publish_scores
from jobs.train.best_checkpoint import BestCheckpoint, best_first, describe_best
from jobs.train.run import training_run
from jobs.train.trainer import GuardedTrainer
from launcher.recipe import ClassifyRecipe

_EVALUATION_BATCH = 4
"""Micro batches at once where nothing is kept for a backward pass."""


def main(context: Context) -> None:
    """Train until the recipe's length is reached; publish scores, predictions and the best model.

    Raises:
        StopRequested: a stop was asked for before the end, and everything is saved.
    """
    with training_run(context, ClassifyRecipe) as run:
        if run.is_exported:
            return
        recipe, batch, evaluation = run.recipe, run.recipe.batch, run.recipe.evaluation

        notes = read_notes(context, recipe)
        windows = notes.windows["train"]
        epoch = Fraction(len(windows))
        steps, interval = (batch.steps(length, epoch) for length in (recipe.schedule.length, evaluation.interval))
        samples = TrainingSamples(windows, recipe.seed, steps * batch.sequences)

        run.begin(steps, epoch, per_device_eval_batch_size=_EVALUATION_BATCH * batch.least_micro_batch)
        run.print(notes.describe())
        head = head_settings(notes.classes, notes.labels, notes.tokenizer)
        path = context.model_path(recipe.model.path)
        # Before the model is built: that fails if the padding token has no row.
        rows = published_config(recipe.model, path).get_text_config().vocab_size
        check_rows(rows, max(notes.tokenizer.get_vocab().values()) + 1)
        model = build_classifier(recipe.model, path, recipe.seed, weights_dtype(recipe), head)
        check_positions(model, batch, recipe.virtual_tokens)

        trainer = run.trainer(
            run.adapt(model, "SEQ_CLS"),
            samples,
            NoteCollator(notes.tokenizer.pad_token_id, batch.sequence_length),
            callbacks=[BestCheckpoint(evaluation.metric, evaluation.is_lower_better, interval)],
            tokens_per_sequence=mean_tokens(windows),
            eval_dataset=notes.windows["validation"],
            compute_metrics=partial(_score_validation, run.group, notes),
            compute_loss_func=_loss(recipe, notes),
        )
        run.train(trainer)
        trainer.load_best(partial(best_first, context.run, evaluation.metric, evaluation.is_lower_better))
        splits = _predict(trainer, notes)
        facts = {
            "data_use": recipe.data_use,
            "metric": evaluation.metric,
            "best_step": trainer.state.best_global_step,
            **notes.facts(),
        }
        outputs, resampling = context.run.outputs, (evaluation.resamples, recipe.seed)
        publish = partial(publish_scores, outputs, splits, notes.classes, resampling, facts)
        wait_for_main(run.group, publish, finishes=True)
        if run.group.is_main:
            print(f"{describe_best(trainer.state, evaluation.metric)}\n{describe_scores(outputs)}", flush=True)
        run.export(trainer, [recipe.data.name], pad_token=notes.tokenizer.pad_token)


def _loss(recipe: ClassifyRecipe, notes: LabelledNotes) -> ClassificationLoss:
    if recipe.class_weights == "none":
        return ClassificationLoss(notes.labels)
    counts = class_counts(notes.tables["train"].labels, len(notes.classes))
    return ClassificationLoss(notes.labels, balanced_weights(counts))


def _score_validation(group: RankGroup, notes: LabelledNotes, said: EvalPrediction) -> dict[str, float]:
    """Score an evaluation: rank 0 for all, so that all ranks take the same checkpoint for the best."""
    found = notes.predictions("validation", said.predictions)
    return group.from_main(compute_scores(found) if group.is_main else {})


def _predict(trainer: GuardedTrainer, notes: LabelledNotes) -> dict[str, SplitPredictions]:
    """Predict the notes that were not trained on. A collective."""
    trainer.compute_metrics = None  # it is for evaluations of the validation notes
    splits: dict[str, SplitPredictions] = {}
    for split in notes.held_out:
        logits = trainer.predict(notes.windows[split]).predictions
        table, found = notes.tables[split], notes.predictions(split, logits)
        splits[split] = SplitPredictions(table.ids, table.units, table.unit_column, found)
    return splits
