"""kind: outcomes - from MIMIC's tables to the tables of notes and outcomes that `classify` reads."""

from collections.abc import Iterator
from typing import Annotated, ClassVar, Literal

from pydantic import Field
from typing_extensions import override

from launcher.recipe.base import Artifact, FolderName, Fraction, Input
from launcher.recipe.kinds.recipe_base import RecipeBase
from launcher.recipe.sections.labelled_notes import CORE_TASKS
from launcher.recipe.sections.outcome_tables import OutcomeTables, PatientLists


class OutcomesRecipe(RecipeBase):
    """Outcome tables."""

    extras: ClassVar[tuple[str, ...]] = ("data",)
    reads_text: ClassVar[bool] = True
    progress: ClassVar[Literal["steps"]] = "steps"
    trains: ClassVar[Literal[False]] = False
    is_tracked: ClassVar[Literal[False]] = False

    kind: Literal["outcomes"]
    """Outcome tables."""
    output: FolderName
    """Name of the folder to make, below the profile's `roots.data`. A `classify` recipe names it as `data.folder`."""
    source: OutcomeTables
    """MIMIC's tables."""
    rules: Literal["published", "strict"] = "published"
    """`published`: notes and labels as CORe's code makes them. `strict`: sections at the end of a note are found, empty
    sections and stays that end before they start are left out, and procedure codes keep leading zeros."""
    patients: PatientLists | None = None
    """Lists of the patients of each split. If left out, patients are split 70/10/20 by a hash."""
    split_seed: Annotated[int, Field(ge=0)] | None = None
    """Number that changes that hash, for another split. If left out, the hash is that of `prepare`: `validation: 0.2`
    there holds out the test patients, `validation: 0.3` the validation and test patients."""
    max_bad_fraction: Fraction = 0.001
    """Rows that cannot be read are counted and skipped up to this share of each table; above it the run fails."""

    @override
    def inputs(self) -> Iterator[Input]:
        yield from self.source.inputs()
        if self.patients:
            yield from self.patients.inputs()

    @property
    @override
    def makes(self) -> Artifact:
        files = (name for outcome in self.source.outcomes for name in CORE_TASKS[outcome].all_files)
        return Artifact("tables", self.output, tuple(files))

    @override
    def _conflicts(self) -> Iterator[str]:
        for key, n, only in (("nodes", self.resources.nodes, 1), ("gpus_per_node", self.resources.gpus_per_node, 0)):
            if n > only:
                yield f"resources.{key}: `outcomes` is one process without GPUs; write {only}"
        if self.data_use == "open":
            yield "source.format: MIMIC is under a data use agreement; write `data_use: credentialed`"
        if self.patients and self.split_seed is not None:
            yield "split_seed: `patients` lists the patients of each split; leave one of the two out"
