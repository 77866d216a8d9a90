"""What every kind of training shares: resume, train with guarded checkpoints, export when the end is reached."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from torch.utils.data import Dataset
from transformers import AutoTokenizer, PreTrainedModel, TrainerCallback

from jobs.data.samples import flattening_collator
from jobs.models.adapter_state import adapter_callbacks
from jobs.models.adapters import adapted, declared_trainable
from jobs.models.arguments import refuse_impossible, training_arguments
from jobs.models.build import published_config
from jobs.models.model_folder import require_data_use
from jobs.models.orthogonal import located
from jobs.models.parallel import Layout, lay_out
from jobs.models.schedule import lr_factor
from jobs.models.stacking import Earlier, open_earlier, stack, trained_names
from jobs.models.universal import loadable
from jobs.runtime.checkpoint import CheckpointStore
from jobs.runtime.context import Context
from jobs.runtime.control import StepControl
from jobs.runtime.export import Provenance, export_model, is_exported
from jobs.runtime.finite import FiniteLoss
from jobs.runtime.gradient_guard import GradientGuard
from jobs.runtime.metrics import EvaluationMetrics, StepMetrics, print_row
from jobs.runtime.micro_batch import explaining_memory, sized
from jobs.runtime.model_name import publish_name, refuse_taken
from jobs.runtime.process_group import Group, process_group
from jobs.runtime.required import required_files
from jobs.runtime.stop import StopFlag
from jobs.runtime.throughput import speed_of
from jobs.runtime.tracking import Tracker, open_tracker
from jobs.runtime.trainer import GuardedTrainer
from launcher.adapters import read_adapter
from launcher.expansion import Expansion
from launcher.ledger import append_event
from launcher.paths import CONTINUE, FINISHED
from launcher.recipe.molora import Orthogonal
from launcher.recipe.training import TrainingRecipe

R = TypeVar("R", bound=TrainingRecipe)


@dataclass(frozen=True)
class Work:
    """What one kind of training brings with it."""

    steps: int
    """Optimizer steps of the whole training."""
    samples: Dataset[Any]
    """In the order in which they are trained on: a pure function of the recipe."""
    collator: Callable[[list[Any]], dict[str, Any]]
    """Makes a micro batch of samples."""
    build_model: Callable[[], PreTrainedModel]
    """Called when Trainer's arguments are there: ZeRO-3 shards weights while they load, and learns of it from them."""
    export: Callable[[GuardedTrainer], None]
    """Publishes the trained model as `export_folder`; a collective."""
    task: str = "CAUSAL_LM"
    """peft's name for what the model does."""
    remark: str | None = None
    """A line about the data for the log."""
    callbacks: tuple[TrainerCallback, ...] = ()
    """Besides those of every training."""
    arguments: dict[str, Any] = field(default_factory=dict)
    """Of TrainingArguments, besides those of every training."""
    trainer: dict[str, Any] = field(default_factory=dict)
    """Of GuardedTrainer, besides those of every training: a loss, what to evaluate on."""
    new_tokens: Expansion | None = None
    """Tokens that the model did not have when training began."""
    tokens_per_sequence: float | None = None
    """Mean length of the sequences, where they are shorter than the recipe's `sequence_length`."""


def carry_out(context: Context, recipe: R, stop: StopFlag, plan: Callable[[R, Group], Work]) -> int:
    """Train until the recipe's length is reached or a stop is wanted.

    Args:
        context: The run and this task's rank.
        recipe: The run's recipe.
        stop: Tells whether this task was asked to stop.
        plan: Opens the data and says what the work is; called unless the run is finished already, with the recipe
            as it is for this attempt: its micro batch is one that is to be tried.

    Returns:
        FINISHED with the export in place, or CONTINUE with everything saved.
    """
    with process_group(context) as group:
        # Rank 0 looks, for all: file systems show a new folder to different nodes at different moments.
        finished = group.from_main(is_exported(export_folder(context)))
        if not finished:
            refuse_impossible(recipe, group.device)
            refuse_taken(context, recipe)
            require_data_use(recipe.data_use, _sources(context, recipe))
            recipe = sized(recipe, context, group)
            with explaining_memory(recipe, context):
                finished = train(context, recipe, group, stop, plan(recipe, group))
        if finished and group.is_main:
            publish_name(context, recipe)
            append_event(context.run.ledger, context.attempt, reason="finished")
        return FINISHED if finished else CONTINUE


def train(context: Context, recipe: TrainingRecipe, group: Group, stop: StopFlag, work: Work) -> bool:
    """Resume, train, and export if training came to its end; tell whether it did."""
    layout, earlier = lay_out(recipe.parallel, context.ranks, group.device), open_earlier(context, recipe)
    required = required_files(
        layout.uses_fsdp, layout.zero_stage, recipe.precision.dtype == "fp16", adapted=recipe.adapter is not None
    )
    store = CheckpointStore(context.run, group, recipe.checkpoint.keep, required)
    resumed = store.find_resume()
    if group.is_main:
        append_event(context.run.ledger, context.attempt, first_step=resumed or 0, total_steps=work.steps)
        print(f"attempt {context.attempt}: {layout}, {store.describe(resumed)}", flush=True)
        if work.remark:
            print(work.remark, flush=True)
    folder = None if resumed is None else loadable(store, layout, resumed)
    layout = replace(layout, resumes_converted=folder == store.converted)

    arguments = training_arguments(recipe, layout, work.steps, store.staging, **work.arguments)
    model = _build(context, recipe, work, earlier)
    declared = declared_trainable(model, trained_names(earlier))
    guard = GradientGuard(group, declared, by_hooks=layout.zero_stage is not None)
    control = StepControl(context, stop, group, recipe.checkpoint.interval)
    tracker = open_tracker(context, recipe.tracking)
    trainer = GuardedTrainer(
        store,
        layout,
        partial(lr_factor, schedule=recipe.schedule, total=work.steps),
        packs=recipe.packs or ("sample" if work.collator is flattening_collator else None),
        model=model,
        args=arguments,
        train_dataset=work.samples,
        data_collator=work.collator,
        **work.trainer,
        callbacks=[
            control,
            guard,
            *adapter_callbacks(model),
            *_metrics(context, recipe, layout, model, tracker, work.tokens_per_sequence),
            FiniteLoss(recipe.precision.dtype),
            *work.callbacks,
        ],
    )
    if not control.wants_stop():
        trainer.train(resume_from_checkpoint=None if folder is None else str(folder))
        if group.is_main:
            append_event(context.run.ledger, context.attempt, last_step=trainer.state.global_step)
    if not control.stopped:
        work.export(trainer)
    tracker.close(finished=not control.stopped)
    return not control.stopped


def export_folder(context: Context) -> Path:
    """Where the trained model appears; a run that has it is finished."""
    return context.run.outputs / "model"


def export_trained(
    context: Context,
    recipe: TrainingRecipe,
    group: Group,
    corpora: tuple[str, ...],
    trainer: GuardedTrainer,
    **of_tokenizer: str | None,
) -> None:
    """Publish the trained model with the tokenizer of its base. A collective.

    Args:
        context: The run.
        recipe: Its recipe.
        group: All ranks.
        corpora: Names of what was trained on.
        trainer: Holds the trained model.
        **of_tokenizer: Attributes that the tokenizer is to have, e.g. the `chat_template` that the model was taught
            with; None: as it has them.
    """
    path, start = context.model_path(recipe.model.path), located(context, recipe)
    beneath = open_earlier(context, recipe)
    before = [one.adapter.manifest for one in beneath]
    before += [read_adapter(Path(start.start_from)).manifest] if isinstance(start, Orthogonal) else []
    provenance = Provenance(
        run=context.record.id,
        kind=recipe.kind,
        fingerprint=context.record.fingerprint,
        base_model=recipe.model.path,
        corpora=tuple(dict.fromkeys([name for made in before for name in made.get("corpora", ())] + [*corpora])),
        data_use=recipe.data_use,
        steps=trainer.state.best_global_step or trainer.state.global_step,
        started_from=recipe.adapter.start_from if isinstance(recipe.adapter, Orthogonal) else None,
        beneath=tuple(one.describe() for one in beneath),
    )
    tokenizer = AutoTokenizer.from_pretrained(
        context.model_path(recipe.model.tokenizer_path), trust_remote_code=recipe.model.trust_remote_code
    )
    for name, value in of_tokenizer.items():
        setattr(tokenizer, name, getattr(tokenizer, name) if value is None else value)
    published = published_config(recipe.model, path)
    export_model(trainer, group, export_folder(context), tokenizer, published, provenance)


def _sources(context: Context, recipe: TrainingRecipe) -> list[Path]:
    """Folders of what the recipe starts from."""
    names = (recipe.model.path, *(adapter.path for adapter in recipe.model.adapters))
    return [Path(context.model_path(name)) for name in names]


def _build(context: Context, recipe: TrainingRecipe, work: Work, earlier: Sequence[Earlier]) -> PreTrainedModel:
    adapter, model = located(context, recipe), work.build_model()
    if adapter is None:
        return model
    return stack(adapted(model, adapter, recipe.seed, work.task, work.steps, work.new_tokens), earlier)


def _metrics(
    context: Context,
    recipe: TrainingRecipe,
    layout: Layout,
    model: PreTrainedModel,
    tracker: Tracker,
    tokens_per_sequence: float | None,
) -> list[TrainerCallback]:
    if not context.ranks.is_main:
        return []
    speed = speed_of(model, recipe.batch, recipe.precision, layout)
    if tokens_per_sequence is not None:
        speed = replace(speed, tokens_per_step=round(tokens_per_sequence * recipe.batch.sequences))
    return [
        StepMetrics(context.run.metrics, context.attempt, speed, (print_row, tracker.log)),
        EvaluationMetrics(context.run.evaluations, context.attempt, tracker.log_evaluation),
    ]
