"""From the notes of an admission to a row in the table of each outcome."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from jobs.data.outcomes.rules import stay_class, without_mentions_of_death
from jobs.data.outcomes.sections import Rules
from jobs.data.outcomes.split import SplitOf
from jobs.data.outcomes.tables import Admission, Codes
from jobs.data.outcomes.writing import OutcomeRow, OutcomeWriter
from launcher.recipe.sections.labelled_notes import NoteSplit, Outcome


@dataclass
class AdmissionLabels:
    """All that is known of admissions but their notes."""

    admissions: Mapping[int, Admission]
    split_of: SplitOf
    rules: Rules
    codes: dict[Outcome, Codes] = field(default_factory=dict)
    """`diag` and `proc`, where the recipe names their tables."""
    ventilation: Mapping[int, tuple[int, NoteSplit | None]] | None = None
    """Label and, where BEEP's split is there, split of admissions, where the recipe names that table."""

    @property
    def outcomes(self) -> tuple[Outcome, ...]:
        """The outcomes that the recipe's tables are enough for."""
        return ("los", "mor", *self.codes, *(() if self.ventilation is None else ("pmv",)))

    def write(self, number: int, text: str, writer: OutcomeWriter) -> None:
        """Write the text of an admission with each label that it has; count why it has no other."""
        patient = self.admissions[number].patient
        row = OutcomeRow(number, patient, text, self.split_of(patient))
        self._write_stay(row, writer)
        for outcome, codes in self.codes.items():
            if groups := codes.groups.get(number):
                writer.add(outcome, row, ",".join(groups))
            else:
                writer.left_out[outcome]["no_code"] += 1
        self._write_death(row, writer)

    def _write_stay(self, row: OutcomeRow, writer: OutcomeWriter) -> None:
        admission = self.admissions[row.admission]
        if admission.died:
            writer.left_out["los"]["died"] += 1
        elif admission.seconds < 0 and self.rules == "strict":
            writer.left_out["los"]["negative_stay"] += 1
        else:
            writer.add("los", row, stay_class(admission.seconds))

    def _write_death(self, row: OutcomeRow, writer: OutcomeWriter) -> None:
        """Write death in hospital and, since BEEP takes its notes from CORe's table of that, ventilation."""
        label, own_split = (self.ventilation or {}).get(row.admission, (None, None))
        text = without_mentions_of_death(row.text)
        if text is None:
            writer.left_out["mor"]["death_mentioned"] += 1
            return
        row = row.with_text(text)
        writer.add("mor", row, int(self.admissions[row.admission].died))
        if label is not None:
            writer.add("pmv", row.in_split(own_split), label)

    def count_labels_without_note(self, writer: OutcomeWriter) -> None:
        """Count labels of ventilation whose admission has no row of death in hospital; once all rows are written."""
        if self.ventilation is not None:
            used = sum(writer.sizes["pmv"].values()) + writer.left_out["pmv"].total()
            writer.left_out["pmv"]["no_note"] = len(self.ventilation) - used
