"""What every kind of training shares: it resumes, trains with guarded checkpoints, and exports when the end is reached.

A kind's page (`jobs.kinds.cpt`) calls the methods of `TrainingRun` in the order in which they stand here.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, replace
from fractions import Fraction
from functools import partial
from pathlib import Path
from typing import Any, Generic, TypeVar, cast

from torch.utils.data import Dataset
from transformers import PreTrainedModel, TrainerCallback, TrainingArguments

from jobs.models.adapters.build import adapted, declared_trainable
from jobs.models.adapters.orthogonal import located
from jobs.models.adapters.stack import open_base_adapters, stack, trained_names
from jobs.models.build import published_config
from jobs.models.compiled_layers import compile_layers
from jobs.models.folder import require_data_use
from jobs.models.parallel import lay_out
from jobs.models.recompute import recompute
from jobs.rank.context import Context
from jobs.rank.preflight import node_of
from jobs.rank.process_group import RankGroup, process_group
from jobs.rank.stop_flag import StopRequested
from jobs.train.adapter_checkpoint import adapter_callbacks
from jobs.train.arguments import refuse_impossible, training_arguments
from jobs.train.checkpoint import CheckpointStore
from jobs.train.checkpoint_files import required_files
from jobs.train.checkpoint_saver import CheckpointSaver
from jobs.train.compile_report import CompileReport
from jobs.train.during import EvaluationDuringTraining
from jobs.train.export import export_model, is_exported, load_tokenizer, manifest_of
from jobs.train.gradient_guard import GradientGuard
from jobs.train.lr_schedule import lr_factor
from jobs.train.metrics import EvaluationMetrics, Row, StepMetrics, print_row
from jobs.train.micro_batch import explaining_memory, sized
from jobs.train.nan_guard import FiniteLoss
from jobs.train.output_link import publish_name, refuse_taken
from jobs.train.proofs import proofs_of
from jobs.train.resume import resume_from
from jobs.train.rollouts.samples import Sampled, write_samples
from jobs.train.step_times import StragglerWatch
from jobs.train.stop_callback import StepControl
from jobs.train.throughput import speed_of
from jobs.train.tracking import open_tracker
from jobs.train.trainer import GuardedTrainer
from jobs.train.zero_checkpoint import loadable
from launcher.artifacts.tokenizer_manifest import Expansion
from launcher.errors import LauncherError
from launcher.recipe.kinds.training import TrainingRecipe
from launcher.run.ledger import append_event
from launcher.run.pauses import Pause
from launcher.run.stragglers import Straggler

R = TypeVar("R", bound=TrainingRecipe)


class TrainingRun(Generic[R]):
    """A training run as one rank of an attempt carries it out. All methods are collectives."""

    def __init__(self, context: Context, recipe: R, group: RankGroup, is_exported: bool) -> None:
        self.context = context
        self.recipe = recipe
        """As it is for this attempt: its micro batch is the one that is to be tried."""
        self.group = group
        self.is_exported = is_exported
        """Whether an earlier attempt came to the end; then there is nothing left to do."""

    def begin(
        self,
        steps: int,
        epoch: Fraction,
        arguments_class: type[TrainingArguments] = TrainingArguments,
        state_files: Sequence[str] = (),
        **arguments: Any,
    ) -> None:
        """Find the checkpoint to resume from, and make Trainer's arguments.

        It comes before the model is built: ZeRO-3 shards weights while they load, as these arguments say.

        Args:
            steps: Optimizer steps of the whole training.
            epoch: Samples that it takes to read the data once.
            arguments_class: What the trainer takes; TRL's trainers have their own.
            state_files: What `GuardedTrainer.save_state` writes into each checkpoint, as patterns; `{rank}` stands for
                each rank.
            **arguments: Of `arguments_class`, besides those of every training.

        Raises:
            LauncherError: the recipe does not fit the ranks of this attempt or trains nothing, a base adapter is not
                usable, or the data has another length than the checkpoint knows.
        """
        context, recipe, group = self.context, self.recipe, self.group
        self.steps = steps
        if fault := recipe.find_too_little(epoch):
            raise LauncherError(fault)
        self._base_adapters = open_base_adapters(context, recipe)
        layout = lay_out(recipe.parallel, context.ranks, group.device)
        required = required_files(
            layout.uses_fsdp, layout.zero_stage, recipe.precision.dtype == "fp16", adapted=recipe.adapter is not None
        )
        self._store = CheckpointStore(context.run, group, recipe.checkpoint.keep, [*required, *state_files])
        resumed = resume_from(context, recipe, self._store, steps)
        if group.is_main:
            print(f"attempt {context.attempt}: {layout}, {self._store.describe(resumed)}", flush=True)
        self._checkpoint = None if resumed is None else loadable(self._store, layout, resumed)
        self._layout = replace(layout, resumes_converted=self._checkpoint == self._store.converted)
        self._arguments = training_arguments(
            recipe, self._layout, steps, self._store.staging, arguments_class, **arguments
        )

    def adapt(
        self, model: PreTrainedModel, task_type: str = "CAUSAL_LM", new_tokens: Expansion | None = None
    ) -> PreTrainedModel:
        """Add the recipe's adapter to a model, on top of base adapters; without one, return the model as it is.

        Args:
            model: Just built.
            task_type: peft's name for what the model does.
            new_tokens: Tokens that the model has got since it was published.

        Raises:
            LauncherError: an adapter does not fit the model.
        """
        adapter = located(self.context, self.recipe)
        if adapter is None:
            return model
        new = adapted(model, adapter, self.recipe.seed, task_type, self._arguments.max_steps, new_tokens)
        return cast(PreTrainedModel, stack(new, self._base_adapters))  # it passes on what it does not have itself

    def trainer(
        self,
        model: PreTrainedModel,
        samples: Dataset[Any],
        collator: Callable[[list[Any]], dict[str, Any]],
        *,
        trainer_class: type[GuardedTrainer] = GuardedTrainer,
        callbacks: Sequence[TrainerCallback] = (),
        tokens_per_sequence: float | None = None,
        **options: Any,
    ) -> GuardedTrainer:
        """Make the Trainer.

        Args:
            model: Adapted if the recipe says so.
            samples: In the order in which they are trained on: a pure function of the recipe.
            collator: Makes a micro batch of samples.
            trainer_class: `GuardedTrainer`, or a trainer of TRL combined with it.
            callbacks: Besides those of every training.
            tokens_per_sequence: Mean length of the sequences, where they are shorter than the recipe's
                `sequence_length`.
            **options: Of the trainer, besides those of every training: a loss, what to evaluate on.
        """
        context, recipe = self.context, self.recipe
        recompute(model, recipe.model.activation_checkpointing)
        if recipe.model.compile:
            self.print(f"{compile_layers(model)} layers are compiled in the first step, which takes minutes")
        declared = declared_trainable(model, trained_names(self._base_adapters))
        self._control = StepControl(context, self.group, recipe.checkpoint.interval, recipe.model.compile)
        # A rank that is alone has nobody to compare itself with; layers of ZeRO-3 communicate in their forward pass.
        if self.group.world_size > 1 and self._layout.zero_stage != 3:
            self._control.times.watch(model)
        self._tracker = open_tracker(context, recipe.tracking)
        self._stragglers = StragglerWatch(self._report, partial(node_of, context))
        trainer = trainer_class(
            CheckpointSaver(self._store, recipe.checkpoint.in_background),
            self._layout,
            partial(lr_factor, schedule=recipe.schedule, total=self._arguments.max_steps),
            proofs=proofs_of(recipe, collator, by_default=trainer_class is GuardedTrainer),
            model=model,
            args=self._arguments,
            train_dataset=samples,
            data_collator=collator,
            **options,
            callbacks=[
                self._control,
                GradientGuard(self.group, declared, by_hooks=self._layout.zero_stage is not None),
                *adapter_callbacks(model),
                *self._metrics(model, tokens_per_sequence),
                FiniteLoss(recipe.precision.dtype),
                *callbacks,
            ],
        )
        trainer.step_times = self._control.times
        return trainer

    def train(self, trainer: GuardedTrainer, during: Sequence[EvaluationDuringTraining] = ()) -> None:
        """Train to the end.

        Args:
            trainer: Trains the model.
            during: What evaluates it meanwhile, if anything does.

        Raises:
            StopRequested: some rank was asked to stop before the end, and everything is saved.
        """
        for evaluation in during:
            evaluation.belong_to(trainer)
        if not self._control.wants_stop():
            with self._control.noting_stop():
                trainer.train(resume_from_checkpoint=None if self._checkpoint is None else str(self._checkpoint))
            if self.group.is_main:
                append_event(self.context.run.ledger, self.context.attempt, last_step=trainer.state.global_step)
        if self._control.stopped:
            self._tracker.close(finished=False)
            raise StopRequested

    def export(self, trainer: GuardedTrainer, corpora: Sequence[str], **of_tokenizer: str | None) -> None:
        """Publish the trained model with its tokenizer.

        Args:
            trainer: Holds the trained model.
            corpora: Names of what was trained on.
            **of_tokenizer: Attributes that the tokenizer is to have, e.g. the `chat_template` that the model was taught
                with; None: as it has them.
        """
        steps = trainer.state.best_global_step or trainer.state.global_step
        manifest = manifest_of(self.context, self.recipe, self._base_adapters, corpora, steps)
        tokenizer = load_tokenizer(self.context, self.recipe.model, of_tokenizer)
        published = published_config(self.recipe.model, self.context.model_path(self.recipe.model.path))
        started = time.monotonic()
        export_model(trainer, self.group, export_folder(self.context), tokenizer, published, manifest)
        if self.group.is_main:
            pause = Pause(self.context.attempt, steps, "exporting", time.time(), time.monotonic() - started)
            pause.append(self.context.run.pauses)
        self._tracker.close(finished=True)

    def record_samples(self, step: int, samples: Sequence[Sampled]) -> None:
        """Keep completions to look at, in the run directory and, of open data, at W&B. For rank 0; no collective."""
        write_samples(self.context.run.samples, step, self.context.attempt, samples)
        if self.recipe.data_use == "open":
            self._tracker.log_samples(step, [asdict(one) for one in samples])

    def print(self, *lines: str | None) -> None:
        """Print lines in the log of rank 0."""
        for line in filter(None, lines):
            if self.group.is_main:
                print(line, flush=True)

    def _judge_ranks(self, step: int) -> Row:
        """Say what is known of the ranks' speeds at a logged step."""
        return self._stragglers.note(step, self._control.of_ranks)

    def _report(self, straggler: Straggler) -> None:
        self.print(str(straggler))
        with suppress(OSError):  # a full disk is reported elsewhere
            straggler.append(self.context.run.stragglers(self.context.attempt))

    def _metrics(self, model: PreTrainedModel, tokens_per_sequence: float | None) -> list[TrainerCallback]:
        context, recipe = self.context, self.recipe
        if not context.ranks.is_main:
            return []
        speed = speed_of(model, recipe.batch, recipe.precision, self._layout)
        if tokens_per_sequence is not None:
            speed = replace(speed, tokens_per_step=round(tokens_per_sequence * recipe.batch.sequences))
        return [
            *([CompileReport()] if recipe.model.compile else []),
            StepMetrics(context.run, context.attempt, speed, (print_row, self._tracker.log), self._judge_ranks),
            EvaluationMetrics(context.run.evaluations, context.attempt, self._tracker.log_evaluation),
        ]


@contextmanager
def training_run(context: Context, kind: type[R]) -> Iterator[TrainingRun[R]]:
    """Join the other ranks for a training; at the end of the block the run is finished.

    Args:
        context: The run and this rank.
        kind: Class of the run's recipe.

    Raises:
        LauncherError: the recipe cannot be carried out on these ranks, or starts from data that it denies.
        DoesNotFitError: a smaller micro batch may fit into the GPU's memory.
    """
    recipe = context.recipe
    assert isinstance(recipe, kind)
    with process_group(context) as group:
        # Rank 0 looks, for all: file systems show a new folder to different nodes at different moments.
        exported = group.from_main(is_exported(export_folder(context)))
        if not exported:
            refuse_impossible(recipe, group.device)
            refuse_taken(context, recipe)
            names = [one.name for one in recipe.inputs() if one.type in ("model", "adapter")]
            require_data_use(recipe.data_use, [Path(context.model_path(name)) for name in names])
            recipe = sized(recipe, context, group)
        with explaining_memory(recipe, context):
            yield TrainingRun(context, recipe, group, exported)
        if group.is_main:
            publish_name(context, recipe)
            append_event(context.run.ledger, context.attempt, reason="finished")


def export_folder(context: Context) -> Path:
    """Where the trained model appears; a run that has it is finished."""
    return context.run.outputs / "model"
