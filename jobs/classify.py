"""kind: classify - a head on a language model or an encoder learns the labels of notes."""

from fractions import Fraction
from functools import partial

from transformers import EvalPrediction, PreTrainedModel

from jobs.data.labelled.notes import LabelledNotes, read_notes
from jobs.data.labelled.samples import NoteCollator, TrainingSamples, mean_tokens
from jobs.data.labelled.tables import class_counts
from jobs.models.build import check_positions, weights_dtype
from jobs.models.classifier import ClassificationLoss, balanced_weights, build_classifier, head_settings
from jobs.runtime.best import BestCheckpoint
from jobs.runtime.context import Context
from jobs.runtime.process_group import Group, wait_for_main
from jobs.runtime.stop import StopFlag
from jobs.runtime.trainer import GuardedTrainer
from jobs.scoring.classification import compute_scores
from jobs.scoring.publish import SplitPredictions, describe_scores, publish_scores
from jobs.training import Work, carry_out, export_trained
from launcher.recipe import ClassifyRecipe

_EVALUATION_BATCH = 4
"""Micro batches at once where nothing is kept for a backward pass."""


def main(context: Context, stop: StopFlag) -> int:
    """Train until the recipe's length is reached or a stop is wanted.

    Args:
        context: The run, the recipe and this task's rank.
        stop: Tells whether this task was asked to stop.

    Returns:
        FINISHED with scores, predictions and the best model in place, or CONTINUE with everything saved.
    """
    recipe = context.recipe
    assert isinstance(recipe, ClassifyRecipe)
    return carry_out(context, recipe, stop, partial(_plan, context))


def _plan(context: Context, recipe: ClassifyRecipe, group: Group) -> Work:
    notes = read_notes(context, recipe)
    train, batch, evaluation = notes.windows["train"], recipe.batch, recipe.evaluation
    epoch = Fraction(len(train))
    steps, interval = (batch.steps(length, epoch) for length in (recipe.schedule.length, evaluation.interval))
    return Work(
        steps=steps,
        samples=TrainingSamples(train, recipe.seed, steps * batch.sequences),
        collator=NoteCollator(notes.tokenizer.pad_token_id, batch.sequence_length),
        build_model=partial(_build, context, recipe, notes),
        export=partial(_export, context, recipe, group, notes),
        task="SEQ_CLS",
        remark=notes.describe(),
        callbacks=(BestCheckpoint(evaluation.metric, evaluation.is_lower_better, interval),),
        arguments={"per_device_eval_batch_size": _EVALUATION_BATCH * batch.least_micro_batch},
        trainer={
            "eval_dataset": notes.windows["validation"],
            "compute_metrics": partial(_score_validation, group, notes),
            "compute_loss_func": _loss(recipe, notes),
        },
        tokens_per_sequence=mean_tokens(train),
    )


def _build(context: Context, recipe: ClassifyRecipe, notes: LabelledNotes) -> PreTrainedModel:
    head = head_settings(notes.classes, notes.labels, notes.tokenizer)
    path = context.model_path(recipe.model.path)
    model = build_classifier(recipe.model, path, recipe.seed, weights_dtype(recipe), head)
    check_positions(model, recipe.batch)
    return model


def _loss(recipe: ClassifyRecipe, notes: LabelledNotes) -> ClassificationLoss:
    if recipe.class_weights == "none":
        return ClassificationLoss(notes.labels)
    counts = class_counts(notes.tables["train"].truth, len(notes.classes))
    return ClassificationLoss(notes.labels, balanced_weights(counts))


def _score_validation(group: Group, notes: LabelledNotes, said: EvalPrediction) -> dict[str, float]:
    """Score an evaluation: rank 0 for all, so that all ranks take the same checkpoint for the best."""
    found = notes.predictions("validation", said.predictions)
    return group.from_main(compute_scores(found) if group.is_main else {})


def _export(
    context: Context, recipe: ClassifyRecipe, group: Group, notes: LabelledNotes, trainer: GuardedTrainer
) -> None:
    """Go back to the best checkpoint, predict the notes that were not trained on, and publish all. A collective."""
    best_step = trainer.load_best()
    trainer.compute_metrics = None  # it is for evaluations of the validation notes
    splits = {}
    for split in notes.held_out:
        logits = trainer.predict(notes.windows[split]).predictions
        table, found = notes.tables[split], notes.predictions(split, logits)
        splits[split] = SplitPredictions(table.ids, table.units, table.unit_column, found)
    facts = {"metric": recipe.evaluation.metric, "best_step": best_step, **notes.facts()}
    outputs, resampling = context.run.outputs, (recipe.evaluation.resamples, recipe.seed)
    wait_for_main(group, partial(publish_scores, outputs, splits, notes.classes, resampling, facts))
    if group.is_main:
        print(f"best checkpoint: step {best_step}\n{describe_scores(outputs)}", flush=True)
    export_trained(context, recipe, group, (recipe.data.name,), trainer, pad_token=notes.tokenizer.pad_token)
