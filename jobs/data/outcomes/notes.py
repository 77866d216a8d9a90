"""The discharge summaries of admissions: read once, kept on disk, joined for each admission."""

import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import BinaryIO

from jobs.data.outcomes.sections import without_trailing_spaces
from jobs.data.outcomes.tables import Admission, records, whole
from jobs.data.readers.csv_rows import Row
from jobs.data.readers.source_stream import SourceStream
from launcher.recipe.sections.outcome_tables import Database, TableColumns

_SUMMARIES: dict[Database, tuple[str, ...]] = {"mimic_iii": ("Discharge summary",), "mimic_iv": ("DS", "AD")}
"""What the column of categories says of discharge summaries and addenda."""
_REPORT: dict[Database, str] = {"mimic_iii": "Report", "mimic_iv": "DS"}
"""What the column of descriptions says of a summary that is no addendum."""


class NoteStore:
    """Texts on disk: MIMIC-IV's discharge summaries have 3 GB, too much for the memory of many a node."""

    def __init__(self, file: BinaryIO) -> None:
        """Take an empty file that is open for writing and reading."""
        self._file = file
        self._end = 0

    def add(self, text: str) -> tuple[int, int]:
        """Keep a text; return where it begins and how many bytes it has."""
        content = text.encode()
        self._file.seek(self._end)
        self._file.write(content)
        self._end += len(content)
        return self._end - len(content), len(content)

    def read(self, start: int, size: int) -> str:
        """Return a text."""
        self._file.seek(start)
        return self._file.read(size).decode()


@dataclass(frozen=True, slots=True)
class StoredNote:
    """A discharge summary or an addendum."""

    admission: int
    date: str
    """As in the table; empty if it has none."""
    is_report: bool
    digest: bytes
    """Of its text: two of a million texts agree by chance in one of 10**26 tables."""
    start: int
    size: int


@dataclass(frozen=True)
class NoteReader:
    """Reads the discharge summaries of admissions that are no births, and keeps their texts."""

    database: Database
    columns: TableColumns
    admissions: Mapping[int, Admission]
    store: NoteStore

    def read(self, stream: SourceStream, left_out: Counter[str]) -> list[StoredNote]:
        """Read a table of notes; count those that are left out by the reason."""
        notes = []
        numbers = (self.columns.patient, self.columns.note_number)
        for _, note in records(stream, self.columns.notes, numbers, self._parse):
            if isinstance(note, str):
                left_out[note] += 1
            else:
                notes.append(note)
        return notes

    def _parse(self, row: Row) -> StoredNote | str:
        """Return a note, or why it is left out."""
        patient, cell, date, category, description, text = row
        if category not in _SUMMARIES[self.database]:
            return "other_category"
        if not cell.strip():
            return "no_admission"
        number = whole(cell, self.columns.admission)
        admission = self.admissions.get(number)
        if admission is None:
            return "unknown_admission"
        if admission.patient != int(patient):
            raise ValueError(f"its `{self.columns.patient}` is not that of its admission")
        if admission.is_newborn:
            return "newborn"
        return self._keep(number, date.strip(), description, text) if text else "no_text"

    def _keep(self, number: int, date: str, description: str, text: str) -> StoredNote:
        digest = hashlib.blake2b(text.encode(), digest_size=16).digest()
        if self.database == "mimic_iv":
            text = without_trailing_spaces(text)
        return StoredNote(number, date, description == _REPORT[self.database], digest, *self.store.add(text))


def by_admission(
    notes: Sequence[StoredNote], left_out: Counter[str], admissions_left_out: Counter[str]
) -> dict[int, list[StoredNote]]:
    """Sort notes by date, those of one day as in the table, and group them by admission.

    Of equal texts only the last stays, whichever admissions they are of. Admissions without a report, of whose
    summaries only addenda are left, are counted as left out.
    """
    kept: dict[bytes, StoredNote] = {}
    for note in sorted(notes, key=lambda note: (not note.date, note.date)):
        left_out["copy"] += kept.pop(note.digest, None) is not None
        kept[note.digest] = note
    grouped: dict[int, list[StoredNote]] = {}
    for note in kept.values():
        grouped.setdefault(note.admission, []).append(note)
    found = {number: grouped[number] for number in sorted(grouped) if any(note.is_report for note in grouped[number])}
    admissions_left_out["no_report"] += len(grouped) - len(found)
    return found


def joined(notes: Sequence[StoredNote], store: NoteStore) -> str:
    """Return the texts of an admission, reports and addenda, as one."""
    return "\n\n".join(store.read(note.start, note.size) for note in notes).strip()
