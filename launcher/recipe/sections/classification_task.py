"""Task of an evaluation: scores of predictions that any program has saved."""

from collections.abc import Iterator
from typing import Annotated, ClassVar, Literal

from pydantic import Field
from typing_extensions import override

from launcher.recipe.base import FolderName, Input, Name, Section
from launcher.recipe.sections.labelled_notes import Labels, check_classes


class ClassificationTask(Section):
    """Scores of saved predictions, by the metrics of `classify`. It needs no model."""

    needs_model: ClassVar[bool] = False

    type: Literal["classification"]
    """Saved predictions."""
    name: FolderName
    """Name of the task in scores and messages."""
    files: Name
    """Parquet, CSV or JSON lines, as a glob below the profile's `roots.data`, or `./...` relative to the recipe: a row
    for each note, with its label and either a probability for each class, in columns `p_CLASS` as `classify` writes
    them, or the predicted class."""
    labels: Labels
    """What a label is: one of two classes, one of several, or any number of them."""
    classes: tuple[str, ...] = ()
    """The classes, in order; the second of two is the positive one. If left out: those with a column `p_CLASS`."""
    id_column: str = "id"
    """Column that identifies a note."""
    label_column: str = "label"
    """Column of the true label; `multilabel`: a list, or labels separated by commas."""
    prediction_column: str | None = None
    """Column of the predicted class, if there are no probabilities; scores that need probabilities are left out."""
    group_column: str | None = None
    """Column of what several notes have in common (a patient): these are resampled together. `id_column` if left
    out."""
    resamples: Annotated[int, Field(ge=0)] = 1000
    """Bootstrap resamples for the standard errors and 95 % intervals; 0: none."""

    def inputs(self, key: str) -> Iterator[Input]:
        """Give the files.

        Args:
            key: Of the task in the recipe.
        """
        yield Input(f"{key}.files", "files", self.files)

    @override
    def _conflicts(self) -> Iterator[str]:
        if self.classes and (complaint := check_classes(self.classes, self.labels)):
            yield f"classes: {complaint}"
        if self.prediction_column and not self.classes:
            yield "classes: predictions without probabilities do not tell all classes; list them"
