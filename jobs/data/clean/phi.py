"""Count what looks like patients' data in clinical notes: numbers only, never text.

This does not de-identify anything, and finding nothing proves nothing: it misses names without a title, addresses,
places, ages above 89, dates without a year or in other notations, telephone numbers of other countries, numbers of
plates, devices and insurances, and rare diseases; and much of what it counts is harmless (a hospital's telephone
number, the date of a guideline). It helps to tell de-identified notes from others before anybody trains on them: 509
notes in MIMIC-IV's layout have 6 matches and 4,878 marks of removal, 1,275 from the same source without that layout
have 1,402 matches and 5 marks.
"""

import re
from collections import Counter

from datatrove.data import Document
from datatrove.pipeline.filters.base_filter import BaseFilter

# Words that MIMIC-III puts in place of a name, once the brackets around them are gone: `Dr. Last Name (STitle)`.
_PLACEHOLDERS = "First|Last|Known|Name|Doctor|Initial|Male|Female"

_MONTH = "(?i:jan|feb|mar|apr|may|jun|jul|aug|sep|oct|nov|dec)"
_SSN = r"(?: [Nn]umber| [Nn]o\b| #)?\W{0,4}\d{3} ?\d\d ?\d{4}\b"
_NUMBER = r"\W{0,4}\d(?:[- ]?\d){4}"

# Each starts with something literal and looks behind it later, which is three times as fast.
_EXPRESSIONS = {
    "removal_mark": [r"\[\*\*", r"___(?<!____)(?!_)"],
    "email": [r"@(?<=[\w.+-]@)[\w-]+\.[A-Za-z]"],
    "url": [r"https?://\w", r"www\.(?<!/www\.)\w"],
    "ip_address": [
        # The first number has two digits at least: numbers of enzymes (EC 3.4.22.2) have one.
        r"\d\d\.(?<!\.\d\d\.)(?<!\.\d\d\d\.)(?<!\d{4}\.)\d{1,3}\.\d{1,3}\.\d{1,3}\b(?!\.\d)",
    ],
    "us_ssn": [
        r"\d\d\d-(?<!\d{4}-)\d\d-\d{4}\b",
        rf"SSN{_SSN}",
        rf"ocial [Ss]ecurity{_SSN}",
    ],
    "phone": [r"\d\d\d(?<!\d{4})(?:(?:\) ?|[-. ])\d{3}[-. ]\d{4}|(?<=[2-9]\d\d)[2-9]\d{6})\b"],
    "record_number": [
        rf"MRN{_NUMBER}",
        rf"(?:[Rr]ecord|RECORD|[Aa]ccount|ACCOUNT|[Uu]nit|UNIT) ?(?:[Nn]umber|NUMBER|[Nn]o\b|NO\b|#){_NUMBER}",
    ],
    "date": [
        r"\d(?:/(?<!\d{3}/)\d\d?/(?:19|20)?|-(?<!\d{3}-)\d\d?-(?:19|20)|\.(?<!\d{3}\.)(?<!\.\d\.)\d\d?\.(?:19|20))\d\d\b",
        r"(?:19|20)\d\d([-/])(?<!\d{5}.)\d\d?\1\d\d?\b",
        r"[JFMASOND][a-z]{2,8}\.? \d\d?(?:st|nd|rd|th)?,? (?:19|20)\d\d\b",
        rf"\d(?<!\d\d\d)(?:(?:st|nd|rd|th)?(?: of)?[- ]{_MONTH}[a-z]{{0,6}}[.,]{{0,2}}[- ](?:19|20)|-{_MONTH}-)\d\d\b",
    ],
    "titled_name": [rf"(?:M[rRsS]|D[rR])(?<!\w..)[sS]?\b\.? (?!(?:{_PLACEHOLDERS})\b)[A-Z][A-Za-z'-]+"],
}
PATTERNS = {name: [re.compile(expression) for expression in its] for name, its in _EXPRESSIONS.items()}
"""Telephone and social security numbers as in the USA, full dates of the years 1900 to 2099 (MIMIC moves its dates to
the years after 2100). `removal_mark` is a mark of de-identification, MIMIC's `[**...**]` or `___`; the reader removes
and
counts the former."""


class PhiCheck(BaseFilter):  # type: ignore[misc]  # datatrove has no types
    """Counts patterns in documents, and drops none."""

    name = "phi check"

    def __init__(self) -> None:
        super().__init__()
        self.found = Counter[str](dict.fromkeys(PATTERNS, 0))
        """Matches so far by pattern, also without any."""

    def filter(self, doc: Document) -> bool:
        """Count what the document contains."""
        self.found["removal_mark"] += doc.metadata.get("removal_marks", 0)
        for name, patterns in PATTERNS.items():
            self.found[name] += sum(1 for pattern in patterns for _ in pattern.finditer(doc.text))
        return True
