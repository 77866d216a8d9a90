"""The notes and labels of a classification run, as text and as tokens."""

import glob
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from transformers import PreTrainedTokenizerBase

from jobs.data.labelled.samples import LabelledWindows, pooled, windows_of
from jobs.data.labelled.tables import (
    PATIENT,
    Table,
    class_counts,
    read_classes,
    read_table,
    require_classes,
    require_columns,
)
from jobs.data.labelled.windows import note_encoder
from jobs.data.readers.data_use import require_open_files
from jobs.models.tokenizer import load_tokenizer
from jobs.rank.context import Context
from jobs.scoring.classification import Predictions, compute_scores, probabilities_of
from launcher.errors import LauncherError
from launcher.recipe import ClassifyRecipe
from launcher.recipe.sections.labelled_notes import CsvNotes, Labels, NoteSplit

_SHOWN = 20
"""Classes that the log names."""


@dataclass(frozen=True)
class LabelledNotes:
    """The notes of all splits."""

    classes: tuple[str, ...]
    labels: Labels
    pooling: str
    are_admissions: bool
    """Whether an id stands for an admission."""
    tables: dict[NoteSplit, Table]
    windows: dict[NoteSplit, LabelledWindows]
    tokenizer: PreTrainedTokenizerBase
    """Has a padding token."""

    @property
    def held_out(self) -> list[NoteSplit]:
        """The splits that are not trained on."""
        return [split for split in self.tables if split != "train"]

    @property
    def absent(self) -> list[str]:
        """The classes that never occur in training."""
        counts = class_counts(self.tables["train"].labels, len(self.classes))
        return [name for name, count in zip(self.classes, counts, strict=True) if not count]

    @property
    def takes_admissions_for_patients(self) -> bool:
        """Whether a held-out table of CORe does not name the patients of its admissions."""
        return self.are_admissions and any(self.tables[split].unit_column != PATIENT for split in self.held_out)

    def shared(self, split: NoteSplit) -> tuple[str, int]:
        """Count what a split has in common with the notes of training: patients, admissions, ids or equal texts."""
        train, held_out = self.tables["train"], self.tables[split]
        if not self.are_admissions and (train.has_row_numbers or held_out.has_row_numbers):
            theirs = {*train.texts}
            return "notes", sum(text in theirs for text in held_out.texts)
        if train.unit_column == held_out.unit_column == PATIENT:
            return "patients", len({*train.units} & {*held_out.units})
        return "admissions" if self.are_admissions else "ids", len({*train.ids} & {*held_out.ids})

    def predictions(self, split: NoteSplit, logits: Any) -> Predictions:
        """Make predictions for the notes of a split from the logits of their windows."""
        if not np.isfinite(logits).all():
            raise LauncherError("the model's logits are no longer finite; write a smaller `optim.lr`")
        per_note = pooled(logits, self.windows[split].notes, self.pooling)
        return Predictions(self.tables[split].labels, probabilities_of(per_note, self.labels), self.labels)

    def facts(self) -> dict[str, Any]:
        """Return what to publish with the scores."""
        sources = {split: table.sources for split, table in self.tables.items()}
        shared = {split: dict([self.shared(split)]) for split in self.held_out}
        return {
            "classes": self.classes,
            "absent_in_training": self.absent,
            "shared_with_training": shared,
            "sources": sources,
        }

    def describe(self) -> str:
        """Say what was read."""
        sizes = ", ".join(f"{split} {len(table):,}" for split, table in self.tables.items())
        said = f"notes: {sizes}; {len(self.windows['train']):,} sequences to train on"
        if self.takes_admissions_for_patients:
            said += f"\nno column `{PATIENT}`: intervals treat admissions of one patient as independent"
        for split in self.held_out:
            what, count = self.shared(split)
            if count:
                said += f"\nwarning: {count:,} {what} of {split} are in train as well, so its scores are too good; "
                said += "leave them out of one of the two"
        if not self.absent:
            return said
        names = ", ".join(self.absent[:_SHOWN]) + (", ..." if len(self.absent) > _SHOWN else "")
        return f"{said}\n{len(self.absent)} of {len(self.classes)} classes never occur in training: {names}"


def read_notes(context: Context, recipe: ClassifyRecipe) -> LabelledNotes:
    """Read and encode the notes of a run.

    Raises:
        LauncherError: rows cannot be used, or the recipe's metric is undefined for these notes.
    """
    data = recipe.data
    _require_data_use(recipe, context)
    path = context.model_path(recipe.model.path)
    tokenizer = load_tokenizer(path, recipe.model.path, recipe.model.trust_remote_code)
    _give_padding(tokenizer, recipe.model.path)
    encoder = note_encoder(tokenizer, recipe.batch.sequence_length, data.long_notes)
    classes = read_classes(data, context.data_glob)
    if isinstance(data, CsvNotes):
        for pattern in data.files.values():
            require_columns(context.data_glob(pattern), data, recipe.data_use)
    tables = {
        split: read_table(context.data_glob(glob), data, classes, recipe.data_use) for split, glob in data.files.items()
    }
    require_classes(tables.values(), data, recipe.data_use)
    _require_metric(recipe, tables["validation"], len(classes))
    windows = {split: windows_of(table, encoder) for split, table in tables.items()}
    return LabelledNotes(
        classes, data.labels, data.pooling or "mean", data.format == "core", tables, windows, tokenizer
    )


def _require_data_use(recipe: ClassifyRecipe, context: Context) -> None:
    """Refuse tables of credentialed data in an open recipe."""
    for one in recipe.data.inputs():
        paths = map(Path, glob.glob(context.data_glob(one.name), recursive=True))
        require_open_files(recipe.data_use, one.key, paths)


def _give_padding(tokenizer: PreTrainedTokenizerBase, name: str) -> None:
    """Let a tokenizer without a padding token pad with EOS."""
    if tokenizer.pad_token_id is None:
        if tokenizer.eos_token_id is None:
            raise LauncherError(f"tokenizer `{name}` has neither a padding nor an EOS token; set `pad_token`")
        tokenizer.pad_token = tokenizer.eos_token


def _require_metric(recipe: ClassifyRecipe, validation: Table, classes: int) -> None:
    """Refuse validation notes for which the metric is undefined, before days of training."""
    metric = recipe.evaluation.metric
    even = np.full((len(validation), classes), 1 / classes)
    if math.isnan(compute_scores(Predictions(validation.labels, even, recipe.data.labels))[metric]):
        raise LauncherError(
            f"evaluation.metric: `{metric}` is undefined for these validation notes: no class has notes with "
            "and notes without it; write `log_loss`, or choose other notes"
        )
