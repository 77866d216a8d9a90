"""Tables of MIMIC that hold notes and outcomes: which files, which columns, which patients are held out."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import AfterValidator
from typing_extensions import override

from launcher.recipe.base import Input, Name, Section, TableInput
from launcher.recipe.sections.labelled_notes import Outcome

Database = Literal["mimic_iii", "mimic_iv"]


@dataclass(frozen=True)
class TableColumns:
    """Names of the columns that are read of each table of a database. Case makes no difference."""

    patient: str
    admission: str
    note: tuple[str, ...]
    """Of a note: its date, what it is, whether it is a report or an addendum, its text."""
    stay: tuple[str, ...]
    """Of an admission: its start, its end, its type, 1 if the patient died in it."""
    code: tuple[str, ...]
    """Of a diagnosis or a procedure: its code and, where there are several, the version of the classification."""
    note_number: str
    """A number in every row of the notes: it tells the start of a row from a line of text."""

    @property
    def notes(self) -> tuple[str, ...]:
        """All columns of notes."""
        return (self.patient, self.admission, *self.note)

    @property
    def admissions(self) -> tuple[str, ...]:
        """All columns of admissions."""
        return (self.patient, self.admission, *self.stay)

    @property
    def codes(self) -> tuple[str, ...]:
        """All columns of diagnoses or procedures."""
        return (self.patient, self.admission, *self.code)


COLUMNS: dict[Database, TableColumns] = {
    "mimic_iii": TableColumns(
        patient="SUBJECT_ID",
        admission="HADM_ID",
        note=("CHARTDATE", "CATEGORY", "DESCRIPTION", "TEXT"),
        stay=("ADMITTIME", "DISCHTIME", "ADMISSION_TYPE", "HOSPITAL_EXPIRE_FLAG"),
        code=("ICD9_CODE",),
        note_number="ROW_ID",
    ),
    "mimic_iv": TableColumns(
        patient="subject_id",
        admission="hadm_id",
        note=("charttime", "note_type", "note_type", "text"),
        stay=("admittime", "dischtime", "admission_type", "hospital_expire_flag"),
        code=("icd_code", "icd_version"),
        note_number="note_seq",
    ),
}
"""Of https://mimic.mit.edu/docs/iii/tables/ and https://mimic.mit.edu/docs/iv/modules/."""

LABEL_COLUMNS = ("HADM_ID", "label")
"""Columns of the labels of ventilation."""
SPLIT_COLUMN = "split"
"""A third one that these may have: train, val or test."""
PATIENT_COLUMN = "SUBJECT_ID"
"""Column of lists of patients."""

_CONVERT = (
    "import csv,pickle,sys; w=csv.writer(sys.stdout); w.writerow(['HADM_ID','label','split']); "
    "w.writerows((k,v[0],v[-1]) for k,v in pickle.load(open('pmv_labels.pkl','rb')).items())"
)


def _refuse_pickle(name: str) -> str:
    if name.lower().endswith((".pkl", ".pickle")):
        raise ValueError(
            f"`{name}` is a pickle, which runs code when it is read; where you trust it, convert it by "
            f'`python -c "{_CONVERT}" > pmv_labels.csv`, and name that'
        )
    return name


class OutcomeTables(Section):
    """Tables of MIMIC-III or MIMIC-IV (.csv, .csv.gz, .csv.zst), one file each: names below the profile's
    `roots.data`, or `./...` relative to the recipe."""

    format: Database
    """`mimic_iii`: tables of MIMIC-III; `mimic_iv`: those of MIMIC-IV's module `hosp` and of MIMIC-IV-Note."""
    notes: Name
    """NOTEEVENTS, or MIMIC-IV-Note's `discharge`."""
    admissions: Name
    """ADMISSIONS, for the outcomes `los` and `mor`."""
    diagnoses: Name | None = None
    """DIAGNOSES_ICD, for the outcome `diag`."""
    procedures: Name | None = None
    """PROCEDURES_ICD, for the outcome `proc`."""
    ventilation: Annotated[Name, AfterValidator(_refuse_pickle)] | None = None
    """BEEP's labels for the outcome `pmv`, as a table: `HADM_ID`, `label` (1: ventilated for more than a week) and, to
    use BEEP's own split, `split` (`train`, `val`, `test`)."""

    @property
    def columns(self) -> TableColumns:
        """Names of the columns."""
        return COLUMNS[self.format]

    @property
    def outcomes(self) -> list[Outcome]:
        """The outcomes that the tables are enough for."""
        needed: dict[Outcome, Name | None] = {
            "los": self.admissions,
            "mor": self.admissions,
            "diag": self.diagnoses,
            "proc": self.procedures,
            "pmv": self.ventilation,
        }
        return [outcome for outcome, table in needed.items() if table]

    def inputs(self) -> Iterator[Input]:
        """Give the tables and the columns that each must have."""
        for key, columns in (
            ("notes", (*self.columns.notes, self.columns.note_number)),
            ("admissions", self.columns.admissions),
            ("diagnoses", self.columns.codes),
            ("procedures", self.columns.codes),
            ("ventilation", LABEL_COLUMNS),
        ):
            if name := getattr(self, key):
                yield _table(f"source.{key}", name, columns)


class PatientLists(Section):
    """Tables with a column `SUBJECT_ID` that list the patients of each split. Patients in none of them are left out.

    CORe's are https://github.com/bvanaken/clinical-outcome-prediction/tree/master/tasks, `mimic_{train,val,test}.csv`.
    """

    train: Name
    """The patients of the training notes."""
    validation: Name
    """The patients of the validation notes."""
    test: Name
    """The patients of the test notes."""

    def inputs(self) -> Iterator[Input]:
        """Give the lists."""
        for split in PatientLists.model_fields:
            yield _table(f"patients.{split}", getattr(self, split), (PATIENT_COLUMN,))

    @override
    def _conflicts(self) -> Iterator[str]:
        if len({self.train, self.validation, self.test}) < 3:
            yield "test: one file is named for two splits; name a list for each"


def _table(key: str, name: str, columns: tuple[str, ...]) -> TableInput:
    named = tuple((key, column) for column in dict.fromkeys(columns))
    return TableInput(key, "files", name, columns=named, fix="name the table that has it")
