"""kind: cpt - continued pretraining of a causal language model on prepared corpora."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path

from transformers import AutoTokenizer, PreTrainedModel, TrainerCallback

from jobs.data.corpus import open_corpora
from jobs.data.mixture import mixture_of
from jobs.data.pieces import Pieces, cut, describe_loss
from jobs.data.samples import Samples, flattening_collator, packed_collator, steps_in
from jobs.models.arguments import refuse_impossible, training_arguments
from jobs.models.build import build_causal_lm, check_fits, published_config
from jobs.models.parallel import Layout, lay_out
from jobs.models.schedule import lr_factor
from jobs.runtime.checkpoint import CheckpointStore, required_files
from jobs.runtime.context import Context
from jobs.runtime.control import StepControl
from jobs.runtime.export import Provenance, export_model, is_exported
from jobs.runtime.metrics import StepMetrics, print_row
from jobs.runtime.process_group import Group, process_group
from jobs.runtime.stop import StopFlag
from jobs.runtime.throughput import speed_of
from jobs.runtime.tracking import Tracker, open_tracker
from jobs.runtime.trainer import GuardedTrainer
from launcher.ledger import append_event
from launcher.paths import CONTINUE, FINISHED
from launcher.recipe import CptRecipe


def main(context: Context, stop: StopFlag) -> int:
    """Train until the recipe's length is reached or a stop is wanted.

    Args:
        context: The run, the recipe and this task's rank.
        stop: Tells whether this task was asked to stop.

    Returns:
        FINISHED with the export in place, or CONTINUE with everything saved.
    """
    recipe = context.recipe
    assert isinstance(recipe, CptRecipe)
    with process_group(context) as group:
        # Rank 0 looks, for all: file systems show a new folder to different nodes at different moments.
        finished = group.from_main(is_exported(_export_folder(context))) or _attempt(context, recipe, group, stop)
        if finished and group.is_main:
            append_event(context.run.ledger, context.attempt, reason="finished")
        return FINISHED if finished else CONTINUE


def _attempt(context: Context, recipe: CptRecipe, group: Group, stop: StopFlag) -> bool:
    """Resume, train, and export if training came to its end; tell whether it did."""
    refuse_impossible(recipe, group.device)
    corpora = open_corpora([context.corpus_path(corpus.name) for corpus in recipe.data.corpora], recipe.data_use)
    pieces = cut(corpora, recipe.data.packing, "train", recipe.batch.sequence_length)
    steps = steps_in(recipe.schedule.length, recipe.batch, recipe.data.samples_in_epoch(list(map(len, pieces))))
    samples = _samples(recipe, pieces, steps)

    layout = lay_out(recipe.parallel, context.ranks, group.device)
    required = required_files(layout.uses_fsdp, layout.zero_stage, recipe.precision.dtype == "fp16")
    store = CheckpointStore(context.run, group, recipe.checkpoint.keep, required)
    resumed = store.find_resume()
    if resumed is not None:
        layout.check_resumable(store.saved_by(resumed))
    if group.is_main:
        append_event(context.run.ledger, context.attempt, first_step=resumed or 0, total_steps=steps)
        print(f"attempt {context.attempt}: {layout}, {store.describe(resumed)}", flush=True)
        if loss := describe_loss(recipe.data, pieces):
            print(loss, flush=True)

    # Before the model: ZeRO-3 shards weights while they are loaded, and learns from the arguments that it should.
    arguments = training_arguments(recipe, layout, steps, store.staging)
    model = build_causal_lm(recipe.model, context.model_path(recipe.model.path), recipe.seed)
    check_fits(model, recipe.batch, (corpus.manifest for corpus in corpora))
    control = StepControl(context, stop, group, recipe.checkpoint.interval)
    tracker = open_tracker(context, recipe.tracking)
    trainer = GuardedTrainer(
        store,
        layout,
        partial(lr_factor, schedule=recipe.schedule, total=steps),
        model=model,
        args=arguments,
        train_dataset=samples,
        data_collator=flattening_collator if recipe.model.attention == "flash" else packed_collator,
        callbacks=[control, *_metrics(context, recipe, layout, model, tracker)],
    )
    if not control.wants_stop():
        trainer.train(resume_from_checkpoint=None if resumed is None else str(context.run.checkpoint(resumed)))
        if group.is_main:
            append_event(context.run.ledger, context.attempt, last_step=trainer.state.global_step)
    if not control.stopped:
        _export(context, recipe, trainer, group)
    tracker.close(finished=not control.stopped)
    return not control.stopped


def _samples(recipe: CptRecipe, pieces: Sequence[Pieces], steps: int) -> Samples:
    batch = recipe.batch
    mixture = mixture_of(recipe.data, list(map(len, pieces)), steps, batch.sequences)
    return Samples(pieces, mixture, batch.sequence_length, recipe.seed, steps * batch.sequences)


def _metrics(
    context: Context, recipe: CptRecipe, layout: Layout, model: PreTrainedModel, tracker: Tracker
) -> list[TrainerCallback]:
    if not context.ranks.is_main:
        return []
    speed = speed_of(model, recipe.batch, recipe.precision, layout)
    return [StepMetrics(context.run.metrics, context.attempt, speed, (print_row, tracker.log))]


def _export(context: Context, recipe: CptRecipe, trainer: GuardedTrainer, group: Group) -> None:
    path = context.model_path(recipe.model.path)
    provenance = Provenance(
        run=context.record.id,
        kind=recipe.kind,
        fingerprint=context.record.fingerprint,
        base_model=recipe.model.path,
        corpora=tuple(corpus.name for corpus in recipe.data.corpora),
        data_use=recipe.data_use,
        steps=trainer.state.global_step,
    )
    tokenizer = AutoTokenizer.from_pretrained(path, trust_remote_code=recipe.model.trust_remote_code)
    published = published_config(recipe.model, path)
    export_model(trainer, group, _export_folder(context), tokenizer, published, provenance)


def _export_folder(context: Context) -> Path:
    return context.run.outputs / "model"
