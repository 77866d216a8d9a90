"""A smell test of clinical notes: how often do they contain what looks like patients' data?

Counts only, never text. This does not de-identify anything, and finding nothing proves nothing: names
without a title, addresses, places and rare diseases pass unseen, and much of what is counted is harmless (a
telephone number of a hospital, the date of a guideline). It helps to tell notes that were de-identified
from notes that were not, before anybody trains on them: 509 notes in MIMIC-IV's layout have 3 matches and
4,878 marks of removal, 1,275 from the same source without that layout have 1,397 matches and 5 marks.
"""

import re
from collections import Counter

from datatrove.data import Document
from datatrove.pipeline.filters.base_filter import BaseFilter

# Words that MIMIC-III puts in place of a name, once the brackets around them are gone: `Dr. Last Name (STitle)`.
_PLACEHOLDERS = "First|Last|Known|Name|Doctor|Initial|Male|Female"

# Each starts with as plain a thing as can be and looks behind it later, which is three times as quick.
_EXPRESSIONS = {
    "removal_mark": [r"\[\*\*", r"___(?<!____)(?!_)"],
    "email": [r"@(?<=[\w.+-]@)[\w-]+\.[A-Za-z]"],
    "us_ssn": [r"\d\d\d-(?<!\d{4}-)\d\d-\d{4}\b"],
    "phone": [r"\d\d\d(?<!\d{4})(?:\) ?|[-. ])\d{3}[-. ]\d{4}\b"],
    "record_number": [
        r"MRN\W{0,4}\d{5}",
        r"(?:[Rr]ecord|RECORD|[Aa]ccount|ACCOUNT|[Uu]nit|UNIT) ?(?:[Nn]umber|NUMBER|[Nn]o\b|NO\b|#)\W{0,4}\d{5}",
    ],
    "date": [
        r"\d/(?<!\d{3}/)\d\d?/(?:19|20)?\d\d\b",
        r"(?:19|20)\d\d-(?<!\d{5}-)\d\d?-\d\d?\b",
        r"[JFMASOND][a-z]{2,8}\.? \d\d?(?:st|nd|rd|th)?,? (?:19|20)\d\d\b",
    ],
    "titled_name": [rf"(?:M[rRsS]|D[rR])(?<!\w..)[sS]?\b\.? (?!(?:{_PLACEHOLDERS})\b)[A-Z][A-Za-z'-]+"],
}
PATTERNS = {name: [re.compile(expression) for expression in its] for name, its in _EXPRESSIONS.items()}
"""Telephone and social security numbers as in the USA, full dates of the years 1900 to 2099 (MIMIC moves its dates to
the years after 2100). `removal_mark` is no such pattern but a mark of de-identification, MIMIC's `[**...**]` or `___`;
where the reader's cleaning takes the brackets out there is none left to count."""


class PhiCheck(BaseFilter):
    """Counts patterns in the documents that pass, and passes all of them."""

    name = "phi check"

    def __init__(self) -> None:
        super().__init__()
        self.found = Counter[str](dict.fromkeys(PATTERNS, 0))
        """Matches so far, by pattern; a pattern without any stands there as well."""

    def filter(self, doc: Document) -> bool:
        """Count what the document contains."""
        for name, patterns in PATTERNS.items():
            self.found[name] += sum(1 for pattern in patterns for _ in pattern.finditer(doc.text))
        return True
