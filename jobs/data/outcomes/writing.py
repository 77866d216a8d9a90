"""Write notes with outcomes as the tables of CORe and BEEP, and count what is left out."""

import contextlib
import csv
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from jobs.data.labelled.tables import PATIENT
from jobs.rank.atomic_files import write_durably
from launcher.errors import LauncherError
from launcher.recipe.sections.labelled_notes import CORE_TASKS, NOTE_SPLITS, NoteSplit, Outcome


@dataclass(frozen=True)
class OutcomeRow:
    """What the row of an admission has for every outcome."""

    admission: int
    patient: int
    text: str
    split: NoteSplit | None
    """None: the patient is in none."""

    def with_text(self, text: str) -> "OutcomeRow":
        """Return it with another text."""
        return replace(self, text=text)

    def in_split(self, split: NoteSplit | None) -> "OutcomeRow":
        """Return it in another split, if there is one."""
        return replace(self, split=split or self.split)


class OutcomeWriter:
    """Writes the tables of some outcomes into a folder.

    Every cell is quoted, as in CORe's tables. They have a column more than those, the patients: the scores' intervals
    need it.
    """

    def __init__(self, folder: Path, outcomes: Iterable[Outcome]) -> None:
        self.sizes: dict[Outcome, Counter[NoteSplit]] = {}
        self.left_out: dict[Outcome, Counter[str]] = {}
        self._open = contextlib.ExitStack()
        self._tables: dict[tuple[Outcome, NoteSplit], Any] = {}
        for outcome in outcomes:
            self.sizes[outcome], self.left_out[outcome] = Counter(dict.fromkeys(NOTE_SPLITS, 0)), Counter()
            for split in NOTE_SPLITS:
                path = folder / CORE_TASKS[outcome].file(split)
                file = self._open.enter_context(path.open("w", encoding="utf-8", newline=""))
                table = csv.writer(file, quoting=csv.QUOTE_ALL, lineterminator="\n")
                table.writerow(("id", "text", CORE_TASKS[outcome].label, PATIENT))
                self._tables[outcome, split] = table

    def add(self, outcome: Outcome, row: OutcomeRow, label: object) -> None:
        """Write a note, if its patient is in a split."""
        if row.split is None:
            self.left_out[outcome]["patient_in_no_list"] += 1
            return
        self._tables[outcome, row.split].writerow((row.admission, row.text, label, row.patient))
        self.sizes[outcome][row.split] += 1

    def refuse_empty(self) -> None:
        """Refuse outcomes that no admission has.

        Raises:
            LauncherError: names the outcome, and what became of the admissions.
        """
        for outcome, sizes in self.sizes.items():
            if not sizes.total():
                gone = ", ".join(f"{count:,} {reason}" for reason, count in self.left_out[outcome].items() if count)
                raise LauncherError(
                    f"outcome `{outcome}`: no admission is left ({gone or 'none has a note to predict from'}); are all "
                    "tables of one database, and the lists of patients as well?"
                )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._open.close()


def write_classes(folder: Path, outcome: Outcome, classes: Mapping[str, None]) -> None:
    """Write the list of all groups of codes, in the order of the table that they come from."""
    name = CORE_TASKS[outcome].class_file
    assert name
    write_durably(folder / name, " ".join(classes))
