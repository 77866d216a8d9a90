"""Sources of a corpus: one model for each format."""

import re
from collections.abc import Iterator, Sequence
from typing import Annotated, Literal, TypeAlias

from pydantic import AfterValidator, Field

from launcher.recipe.base import Input, Name, Section

Cleaning = Literal["published", "keep_structure"]


class SourceBase(Section):
    """What all sources have."""

    files: Name
    """Glob below the profile's `roots.data`, or `./...` relative to the recipe."""
    license: str = "unknown"
    """Licence of the text, kept in the corpus's manifest."""


class PileSource(SourceBase):
    """JSON lines with a `text` field (.jsonl, .jsonl.gz, .jsonl.zst), as in the Pile."""

    format: Literal["pile"]
    """JSON lines with a `text` field."""
    subsets: tuple[str, ...] = ()
    """Keep only documents with one of these as `meta.pile_set_name`; all if empty."""


class TextSource(SourceBase):
    """Plain text (.txt, .txt.gz, .txt.zst)."""

    format: Literal["text"]
    """Plain text."""
    document: Literal["line", "file"] = "line"
    """What one document is."""


class ParquetSource(SourceBase):
    """Parquet files."""

    format: Literal["parquet"]
    """Parquet files."""
    column: str = "text"
    """Column that holds the text."""


class DatasetSource(SourceBase):
    """Hugging Face datasets on disk: the files that `save_to_disk` writes, `train/data-*.arrow` (`cache-*.arrow` are
    copies of them)."""

    format: Literal["dataset"]
    """A Hugging Face dataset on disk."""
    column: str = "text"
    """Column that holds the text."""


def _refuse_short_codes(code: str) -> str:
    if not re.fullmatch("[a-z]{3}", code):
        raise ValueError(
            f"`{code}` is not a code of MEDLINE, which has three lower-case letters; write `eng` for English"
        )
    return code


MedlineLanguage: TypeAlias = Annotated[str, AfterValidator(_refuse_short_codes)]


class MedlineSource(SourceBase):
    """MEDLINE/PubMed citations (.xml, .xml.gz): baseline and update files, in the order of NLM's numbers.

    Only the newest version of a citation is kept; deleted ones are dropped.
    """

    format: Literal["medline"]
    """MEDLINE/PubMed XML, baseline and updates."""
    languages: tuple[MedlineLanguage, ...] = ("eng",)
    """MEDLINE's codes of the languages to keep; all if empty."""
    require_abstract: bool = True
    """Drop citations that are a title only."""
    labels: bool = True
    """Keep the labels of structured abstracts (`BACKGROUND: ...`)."""


class PmcSource(SourceBase):
    """PubMed Central articles in JATS XML (.nxml, .xml, .gz), or archives of them (.tar.gz) as PMC distributes them."""

    format: Literal["pmc"]
    """PubMed Central articles in JATS XML."""
    headings: bool = True
    """Keep the titles of sections."""


class MimicIVSource(SourceBase):
    """MIMIC-IV-Note: discharge.csv.gz and radiology.csv.gz, each a source; the tables beside them hold no notes."""

    format: Literal["mimic_iv"]
    """MIMIC-IV-Note tables."""
    clean: Cleaning = "published"
    """`published`: as Clinical LLaMA-LoRA, one line a note; `keep_structure`: lines and sections are kept."""


class MimicIIISource(SourceBase):
    """MIMIC-III NOTEEVENTS.csv(.gz)."""

    format: Literal["mimic_iii"]
    """MIMIC-III NOTEEVENTS table."""
    categories: tuple[str, ...] = ()
    """Keep only these values of CATEGORY; all if empty."""
    clean: Cleaning = "published"
    """`published`: as Clinical LLaMA-LoRA, one line a note; `keep_structure`: lines and sections are kept."""


Source: TypeAlias = Annotated[
    PileSource
    | TextSource
    | ParquetSource
    | DatasetSource
    | MedlineSource
    | PmcSource
    | MimicIVSource
    | MimicIIISource,
    Field(discriminator="format"),
]
"""Files of one format."""


def data_use_conflicts(sources: Sequence[Source], data_use: str) -> Iterator[str]:
    """Name sources that are under a data use agreement in an open recipe."""
    for index, source in enumerate(sources):
        if data_use == "open" and source.format.startswith("mimic"):
            yield f"sources.{index}.format: MIMIC is under a data use agreement; write `data_use: credentialed`"


def source_files(sources: Sequence[Source]) -> Iterator[Input]:
    """Give the files of the sources of a recipe."""
    for place, source in enumerate(sources):
        is_dataset = source.format == "dataset"
        yield Input(f"sources.{place}.files", "files", source.files, "dataset" if is_dataset else "any")
