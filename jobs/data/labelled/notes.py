"""Everything that a classifier's run reads: notes and their labels, as text and as tokens."""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from transformers import PreTrainedTokenizerBase

from jobs.data.labelled.samples import LabelledWindows, pooled, windows_of
from jobs.data.labelled.tables import PATIENT, Table, absent_classes, read_classes, read_table
from jobs.data.labelled.windows import note_encoder
from jobs.data.tokenize import load_tokenizer
from jobs.runtime.context import Context
from jobs.scoring.classification import Predictions, compute_scores, probabilities_of
from launcher.errors import LauncherError
from launcher.recipe import ClassifyRecipe
from launcher.recipe.notes import Labels, NoteSplit

_SHOWN = 20
"""Classes that a line of the log names."""


@dataclass(frozen=True)
class LabelledNotes:
    """The notes of all splits."""

    classes: tuple[str, ...]
    labels: Labels
    pooling: str
    are_admissions: bool
    """Whether an id is that of an admission."""
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
        return absent_classes(self.tables["train"], self.classes)

    @property
    def takes_admissions_for_patients(self) -> bool:
        """Whether a held-out table of CORe's does not say whose admissions are whose."""
        return self.are_admissions and any(self.tables[split].unit_column != PATIENT for split in self.held_out)

    def predictions(self, split: NoteSplit, logits: Any) -> Predictions:
        """Make predictions for the notes of a split from the logits of their windows.

        Raises:
            LauncherError: the logits are not numbers.
        """
        if not np.isfinite(logits).all():
            raise LauncherError("the model's answers are not numbers any more; write a smaller `optim.lr`")
        per_note = pooled(logits, self.windows[split].notes, self.pooling)
        return Predictions(self.tables[split].truth, probabilities_of(per_note, self.labels), self.labels)

    def facts(self) -> dict[str, Any]:
        """Return what scores should be read with."""
        sources = {split: table.sources for split, table in self.tables.items()}
        return {"classes": self.classes, "absent_in_training": self.absent, "sources": sources}

    def describe(self) -> str:
        """Say for the log what was read."""
        parts = ", ".join(f"{split} {len(table):,}" for split, table in self.tables.items())
        said = f"notes: {parts}; {len(self.windows['train']):,} sequences to train on"
        if self.takes_admissions_for_patients:
            said += f"\nno column `{PATIENT}`: intervals take admissions of one patient for independent of each other"
        if not self.absent:
            return said
        names = ", ".join(self.absent[:_SHOWN]) + (", ..." if len(self.absent) > _SHOWN else "")
        return f"{said}\n{len(self.absent)} of {len(self.classes)} classes never occur in training: {names}"


def read_notes(context: Context, recipe: ClassifyRecipe) -> LabelledNotes:
    """Read and encode the notes of a run.

    Raises:
        LauncherError: rows that cannot be used, or notes on which the recipe's metric means nothing.
    """
    data = recipe.data
    path = context.model_path(recipe.model.path)
    tokenizer = load_tokenizer(path, recipe.model.path, recipe.model.trust_remote_code)
    _give_padding(tokenizer, recipe.model.path)
    encoder = note_encoder(tokenizer, recipe.batch.sequence_length, data.long_notes)
    classes = read_classes(data, context.data_glob)
    tables = {split: read_table(context.data_glob(glob), data, classes) for split, glob in data.files.items()}
    _require_metric(recipe, tables["validation"], len(classes))
    windows = {split: windows_of(table, encoder) for split, table in tables.items()}
    return LabelledNotes(
        classes, data.labels, data.pooling or "mean", data.format == "core", tables, windows, tokenizer
    )


def _give_padding(tokenizer: PreTrainedTokenizerBase, name: str) -> None:
    """Let a tokenizer without a padding token pad with EOS, which causal models do not find at the end of a note."""
    if tokenizer.pad_token_id is None:
        if tokenizer.eos_token_id is None:
            raise LauncherError(f"tokenizer `{name}` has neither a padding nor an EOS token; set `pad_token`")
        tokenizer.pad_token = tokenizer.eos_token


def _require_metric(recipe: ClassifyRecipe, validation: Table, classes: int) -> None:
    """Refuse validation notes on which the metric means nothing, before days of training."""
    metric = recipe.evaluation.metric
    even = np.full((len(validation), classes), 1 / classes)
    if math.isnan(compute_scores(Predictions(validation.truth, even, recipe.data.labels))[metric]):
        raise LauncherError(
            f"evaluation.metric: `{metric}` cannot be told of these validation notes: no class has notes with and "
            "notes without it; write `log_loss`, or choose other notes"
        )
