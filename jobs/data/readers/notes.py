"""Readers of clinical notes: MIMIC-IV-Note and MIMIC-III NOTEEVENTS.

Every row is a document, also addenda, which both databases keep beside their notes, and rows without an admission
(outpatients). Exact duplicates are left to the recipe's `exact_duplicates`.

All notes of a patient are in the same split. Both databases hold the admissions of 2008 to 2012 under different patient
numbers, so a patient may be in different splits of the two. To train on both without that overlap, use MIMIC-III's
CareVue subset (https://physionet.org/content/mimic3-carevue/).
"""

import re
from collections.abc import Iterator

from datatrove.data import Document

from jobs.data.readers.csv_rows import read_rows
from jobs.data.readers.source_stream import SourceStream
from launcher.recipe.sections.text_sources import Cleaning, MimicIIISource, MimicIVSource

_NO_ERROR = ("", "0", "0.0")
_SPACES = re.compile("  +")

_MARKER = re.compile(r"\[\*\*([^\[\]]*?)\*\*\]")
_BLANK_LINES = re.compile(r"\n{4,}")


def read_mimic_iv(stream: SourceStream, source: MimicIVSource) -> Iterator[Document]:
    """Give the notes of a MIMIC-IV-Note table (https://physionet.org/content/mimic-iv-note/), in order."""
    for line, (patient, text) in read_rows(stream, ["subject_id", "text"], ["subject_id", "note_seq"]):
        metadata = _metadata(f"mimic_iv/{patient}", text)
        yield Document(clean_note(text, source.clean), f"{stream.path.name}:{line}", metadata=metadata)


def read_mimic_iii(stream: SourceStream, source: MimicIIISource) -> Iterator[Document]:
    """Give the notes of MIMIC-III's NOTEEVENTS (https://mimic.mit.edu/docs/iii/tables/noteevents/), in order.

    Notes that a physician called an error (ISERROR 1, or 1.0 as pandas writes it) and those of other categories are
    marked to be dropped. A space at the end of a category (`Physician `) makes no difference.
    """
    categories = {category.strip() for category in source.categories}
    columns = ["SUBJECT_ID", "CATEGORY", "ISERROR", "TEXT"]
    for line, (patient, category, error, text) in read_rows(stream, columns, ["ROW_ID", "SUBJECT_ID"]):
        stream.count_values([category.strip()])
        metadata = _metadata(f"mimic_iii/{patient}", text)
        if error.strip() not in _NO_ERROR:
            metadata["drop"] = "error"
        elif categories and category.strip() not in categories:
            metadata["drop"] = "other_category"
        yield Document(clean_note(text, source.clean), f"{stream.path.name}:{line}", metadata=metadata)


def clean_note(text: str, how: Cleaning) -> str:
    """Clean the text of a note.

    MIMIC-III puts a marker where something was removed, `[**Hospital 18**]`: its words stay, its brackets go (with a
    space where words would run together). MIMIC-IV puts `___`, which stays.

    Args:
        text: Text as in the table.
        how: `published`: a note becomes one line, byte for byte as in Clinical LLaMA-LoRA
            (https://arxiv.org/abs/2307.03042). `keep_structure`: lines, indents and columns stay; trailing spaces go,
            and more than two blank lines become two.
    """
    if how == "published":
        return _SPACES.sub(" ", text.replace("[**", " ").replace("**]", " ").replace("\n", " "))
    text = text.replace("\r\n", "\n").replace("\r", "\n")
    text = _MARKER.sub(_words_of_marker, text).replace("[**", " ").replace("**]", " ")
    lines = [line.rstrip(" \t") for line in text.split("\n")]
    return _BLANK_LINES.sub("\n\n\n", "\n".join(lines)).strip()


def _metadata(patient: str, text: str) -> dict[str, str | int]:
    marks = text.count("[**")
    return {"split_key": patient, **({"removal_marks": marks} if marks else {})}


def _words_of_marker(marker: re.Match[str]) -> str:
    """Return a marker's words, with a space where other words touch it."""
    text, start, end = marker.string, *marker.span()
    before = " " if text[start - 1 : start].isalnum() else ""
    after = " " if text[end : end + 1].isalnum() or text.startswith("[**", end) else ""
    return before + marker[1].strip(" ") + after
