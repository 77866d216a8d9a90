"""The sections of a discharge summary that are known at admission, as the text to predict outcomes from."""

import re
from typing import Literal

Rules = Literal["published", "strict"]

PARTS = {
    "CHIEF COMPLAINT": "chief complaint",
    "PRESENT ILLNESS": "present illness",
    "MEDICAL HISTORY": "medical history",
    "MEDICATION ON ADMISSION": "medications on admission",
    "ALLERGIES": "allergies",
    "PHYSICAL EXAM": "physical exam",
    "FAMILY HISTORY": "family history",
    "SOCIAL HISTORY": "social history",
}
"""The parts of the text, and the headings of the sections that they come from."""
MAIN_PARTS = ("CHIEF COMPLAINT", "PRESENT ILLNESS", "MEDICAL HISTORY")
"""A note that has none of these is left out."""

_END = re.compile(r"\n\n[^(\\|\d.)\n]+?:")
"""A blank line, and the start of a line up to a colon; a line with other characters before it is no heading."""


def without_trailing_spaces(text: str) -> str:
    """Remove white space at the ends of lines, so that blank lines are empty. MIMIC-IV's have a space in them."""
    return "\n".join(line.rstrip(" \t\r") for line in text.split("\n"))


def admission_text(note: str, rules: Rules) -> str | None:
    """Return the text to predict from, or None if the note has none of the main sections.

    A section begins behind its heading, whatever stands before that in the line, and ends at a blank line with
    another heading behind it; of several sections of one heading the first counts. Its line breaks become spaces.

    Args:
        note: All discharge summaries and addenda of an admission.
        rules: `published`: a section has at least one character and another heading behind it, as in the function
            `filter_admission_text` of CORe's tasks/mimic_utils.py, so an empty section takes in the next one, and one
            at the end of the note is not found. All eight parts are there, empty ones included. `strict`: a section
            may be empty or at the end; only parts with text are there, and `[]`, which notes have for "nothing to
            enter", is no text.
    """
    if rules == "strict":
        note = without_trailing_spaces(note)
    small = note.replace("\u0130", "I").lower()  # U+0130 is the only letter that two small ones are made of
    found = {
        part: _section(note, small.find(f"{heading}:"), len(heading) + 1, rules) for part, heading in PARTS.items()
    }
    if rules == "strict":
        found = {part: text for part, text in found.items() if text and not text.startswith("[]")}
    if not any(found.get(part) for part in MAIN_PARTS):
        return None
    return "\n\n".join(f"{part}: {text}" for part, text in found.items())


def _section(note: str, heading: int, length: int, rules: Rules) -> str:
    if heading < 0:
        return ""
    start = heading + length
    end = _END.search(note, start + (rules == "published"))
    if end is None and rules == "published":
        return ""
    return note[start : end.start() if end else None].replace("\n", " ").strip()
