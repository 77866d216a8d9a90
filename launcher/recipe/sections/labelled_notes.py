"""Notes with labels: which files, which columns, what the labels mean."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, Literal, TypeAlias

from pydantic import Field
from typing_extensions import override

from launcher.recipe.base import Input, Name, Section, TableInput

Labels = Literal["binary", "multiclass", "multilabel"]
NoteSplit = Literal["train", "validation", "test"]
NOTE_SPLITS: tuple[NoteSplit, ...] = ("train", "validation", "test")
Outcome = Literal["los", "mor", "pmv", "diag", "proc"]


@dataclass(frozen=True)
class Columns:
    """Names of a table's columns."""

    id: str
    text: str
    label: str


class NotesBase(Section):
    """What all tables of notes have."""

    long_notes: Literal["head", "tail", "head_and_tail", "chunks"] = "head"
    """Which part of a note longer than `batch.sequence_length` is read: its first tokens, its last ones, half of each
    (Sun et al. 2019, https://arxiv.org/abs/1905.05583), or all of it in chunks. Each chunk is then a training example
    with the note's labels; `pooling` combines their predictions (as Huang et al. 2019,
    https://arxiv.org/abs/1904.05342)."""
    pooling: Literal["mean", "max"] | None = None
    """How the logits of a note's chunks are combined: by their mean, or the largest of each class. `chunks` only;
    `mean` if left out."""

    @override
    def _conflicts(self) -> Iterator[str]:
        if self.pooling and self.long_notes != "chunks":
            yield "pooling: belongs to `long_notes: chunks`; leave it out"


@dataclass(frozen=True)
class CoreTask:
    """One task of CORe or BEEP: its files, and what its labels mean."""

    files: str
    label: str
    labels: Labels
    classes: tuple[str, ...] = ()
    """Names; the files have their numbers."""
    class_file: str | None = None
    """File of the codes, where these are the classes."""
    validation: str = "val"
    """What the file of the validation notes is called."""

    def file(self, split: NoteSplit) -> str:
        """Name the file of a split."""
        return self.files.format(self.validation if split == "validation" else split)

    @property
    def all_files(self) -> Iterator[str]:
        """Name the files of all splits, and that of the classes."""
        yield from map(self.file, NOTE_SPLITS)
        if self.class_file:
            yield self.class_file


CORE_TASKS: dict[Outcome, CoreTask] = {
    "los": CoreTask("LOS_WEEKS_adm_{}.csv", "los_label", "multiclass", ("LT3D", "3DTO7D", "1WTO2W", "GT2W")),
    "mor": CoreTask("MP_IN_adm_{}.csv", "hospital_expire_flag", "binary", ("NOT_DIE", "DIE")),
    "pmv": CoreTask("pmv_{}.csv", "label", "binary", ("LT1W", "GT1W"), validation="dev"),
    "diag": CoreTask(
        "DIA_GROUPS_3_DIGITS_adm_{}.csv", "short_codes", "multilabel", class_file="ALL_3_DIGIT_DIA_CODES.txt"
    ),
    "proc": CoreTask(
        "PRO_GROUPS_3_DIGITS_adm_{}.csv", "short_codes", "multilabel", class_file="ALL_3_DIGIT_PRO_CODES.txt"
    ),
}
"""Layouts of van Aken et al. 2021 (https://github.com/bvanaken/clinical-outcome-prediction) and, for `pmv`, Naik et al.
2022 (https://github.com/allenai/BEEP); names of the classes as in Clinical LLaMA-LoRA."""


class CoreNotes(NotesBase):
    """Tables as the code of CORe makes them of MIMIC-III (`pmv`: that of BEEP), perhaps with a column `SUBJECT_ID`."""

    format: Literal["core"]
    """Tables of CORe and BEEP."""
    task: Outcome
    """Length of stay in four classes, death in hospital, ventilation of more than a week, groups of diagnoses, groups
    of procedures."""
    folder: Name
    """Folder of the tables below the profile's `roots.data`, or `./...` relative to the recipe; their names are CORe's
    and BEEP's."""

    def inputs(self) -> Iterator[Input]:
        """Give the folder, which an `outcomes` recipe may make, the files of all splits, and that of the classes."""
        yield Input("data.folder", "tables", self.folder)
        for name in self._spec.all_files:
            yield Input("data.folder", "files", self._place(name))

    @property
    def name(self) -> str:
        """Name of the data in the export's manifest."""
        return f"core/{self.task}"

    @property
    def files(self) -> dict[NoteSplit, str]:
        """The glob of each split's files."""
        return {split: self._place(self._spec.file(split)) for split in NOTE_SPLITS}

    @property
    def columns(self) -> Columns:
        """The columns to read."""
        return Columns("id", "text", self._spec.label)

    @property
    def labels(self) -> Labels:
        """What a label is: one of two classes, one of several, or any number of them."""
        return self._spec.labels

    @property
    def classes(self) -> tuple[str, ...]:
        """The names of the classes, if these are not in a file; the second of two is the positive one."""
        return self._spec.classes

    @property
    def class_file(self) -> str | None:
        """The glob of the file that lists the classes."""
        return self._spec.class_file and self._place(self._spec.class_file)

    @property
    def label_values(self) -> tuple[str, ...]:
        """What stands in the table for each class, if that is not its name."""
        return tuple(str(number) for number in range(len(self.classes)))

    @property
    def _spec(self) -> CoreTask:
        return CORE_TASKS[self.task]

    def _place(self, name: str) -> str:
        return f"{self.folder.rstrip('/')}/{name}"


class CsvNotes(NotesBase):
    """CSV tables of any origin (.csv, .csv.gz, .csv.zst)."""

    format: Literal["csv"]
    """CSV tables of any origin."""
    train: Name
    """Glob of the training notes below the profile's `roots.data`, or `./...` relative to the recipe."""
    validation: Name
    """Glob of the notes on which the best checkpoint is chosen."""
    test: Name | None = None
    """Glob of the notes of the final scores, if there are any."""
    id_column: str = "id"
    """Column that identifies a note or its patient. Rows with the same value are resampled together."""
    text_column: str = "text"
    """Column of the text."""
    label_column: str = "label"
    """Column of the label; `multilabel`: labels separated by commas, or nothing."""
    labels: Labels
    """What a label is: one of two classes, one of several, or any number of them."""
    classes: tuple[str, ...] = ()
    """The classes as they stand in the table, in order; the second of two is the positive one."""
    class_file: Name | None = None
    """File that lists the classes instead, separated by white space."""

    def inputs(self) -> Iterator[Input]:
        """Give the files of all splits, and that of the classes."""
        for split, pattern in self.files.items():
            yield TableInput(f"data.{split}", "files", pattern, columns=self.named_columns)
        if self.class_file:
            yield Input("data.class_file", "files", self.class_file)

    @property
    def name(self) -> str:
        """Name of the data in the export's manifest."""
        return self.train

    @property
    def files(self) -> dict[NoteSplit, str]:
        """The glob of each split's files."""
        patterns: dict[NoteSplit, str | None] = {"train": self.train, "validation": self.validation, "test": self.test}
        return {split: pattern for split, pattern in patterns.items() if pattern is not None}

    @property
    def columns(self) -> Columns:
        """The columns to read."""
        return Columns(self.id_column, self.text_column, self.label_column)

    @property
    def named_columns(self) -> tuple[tuple[str, str], ...]:
        """Key and name of each column."""
        return tuple((f"data.{key}", getattr(self, key)) for key in ("id_column", "text_column", "label_column"))

    @property
    def label_values(self) -> tuple[str, ...]:
        """What stands in the table for each class, if that is not its name."""
        return ()

    @override
    def _conflicts(self) -> Iterator[str]:
        yield from super()._conflicts()
        if bool(self.classes) == bool(self.class_file):
            yield "classes: list the classes here or name a `class_file`; write one of the two"
        if self.classes and (complaint := check_classes(self.classes, self.labels)):
            yield f"classes: {complaint}"


def check_classes(classes: tuple[str, ...], labels: Labels) -> str | None:
    """Say what is wrong with a list of classes; None if nothing is."""
    twice = next((name for place, name in enumerate(classes) if name in classes[:place]), None)
    if twice is not None:
        return f"`{twice}` is listed twice; list each class once"
    fits = {"binary": len(classes) == 2, "multiclass": len(classes) > 2, "multilabel": bool(classes)}
    wanted = {"binary": "two", "multiclass": "three or more", "multilabel": "at least one"}[labels]
    return None if fits[labels] else f"`{labels}` needs {wanted}, and there are {len(classes)}; list them all"


Notes: TypeAlias = Annotated[CoreNotes | CsvNotes, Field(discriminator="format")]
"""Labelled notes."""
