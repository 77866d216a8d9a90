"""Indexes of terms for tests: of a few concepts, of what is shipped, and recipes that make them."""

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from jobs.data.terminology.concept import Concept
from jobs.data.terminology.index_tables import IndexTables
from jobs.data.terminology.term_index import TermIndex
from launcher.artifacts.corpus_manifest import MANIFEST, file_sha256
from launcher.artifacts.terminology_manifest import CONCEPTS, TERMS, CountedText, TerminologyManifest
from launcher.recipe.kinds.terminology import TerminologyRecipe

SHIPPED_TERMS: tuple[dict[str, Any], ...] = (
    {"format": "obo", "files": "./assets/terminology/doid_cancer.obo.gz", "license": "CC0"},
    {
        "format": "umls",
        "files": "./assets/terminology/MRCONSO.RRF.gz",
        "types": "./assets/terminology/MRSTY.RRF.gz",
        "license": "CC0",
    },
    {"format": "abbreviations", "files": "./assets/terminology/abbreviations.json", "license": "Apache-2.0"},
)


def term_recipe(**changes: object) -> TerminologyRecipe:
    """A small `terminology` recipe of what is shipped below `./assets`; keywords change it."""
    fields: dict[str, Any] = {
        "kind": "terminology",
        "name": "terms",
        "data_use": "credentialed",
        "output": "terms",
        "terms": SHIPPED_TERMS,
        "resources": {"cpus_per_task": 2, "time": "1h"},
    }
    return TerminologyRecipe.model_validate_json(json.dumps(fields | changes))


def write_tables(
    folder: Path, tables: IndexTables, mentions: Mapping[str, int] | None = None, data_use: str = "open"
) -> TermIndex:
    """Write decided tables as an index, with the mentions of concepts by their ids."""
    counts = Counter(mentions or {})
    folder.mkdir(parents=True, exist_ok=True)
    tables.write(folder, [counts[concept.id] for concept in tables.concepts])
    manifest = TerminologyManifest(
        terminology=folder.name,
        data_use="credentialed" if data_use == "credentialed" else "open",
        fingerprint="0" * 64,
        code="test",
        concepts=len(tables.concepts),
        terms=len(tables.terms),
        ambiguous=tables.ambiguous,
        sources=(),
        counted=None if mentions is None else CountedText(documents=1, mentions=counts.total(), concepts=len(counts)),
        files=(),
        checksums={name: file_sha256(folder / name) for name in (CONCEPTS, TERMS)},
    )
    (folder / MANIFEST).write_text(manifest.model_dump_json())
    return TermIndex(folder)


def index_of(
    folder: Path,
    concepts: Iterable[Sequence[str]],
    abbreviations: Iterable[tuple[str, str]] = (),
    mentions: Mapping[str, int] | None = None,
    data_use: str = "open",
) -> TermIndex:
    """An index of concepts, each a preferred term (also its id) and its synonyms."""
    tables = IndexTables()
    made = [Concept(preferred, preferred, "disease", synonyms) for preferred, *synonyms in concepts]
    tables.add(made, Counter())
    tables.add_meanings(abbreviations, "abbreviation")
    tables.decide()
    return write_tables(folder, tables, mentions, data_use)


SOME = (
    ("myocardial infarction", "heart attack", "MI", "HA", "cardiac infarction"),
    ("mitral insufficiency", "mitral valve regurgitation", "MI"),
    ("lung cancer", "cancer of lung", "pulmonary carcinoma"),
    ("cancer", "malignant tumor"),
    ("kidney", "renal organ"),
    ("kidney cancer", "renal carcinoma"),
    ("Hodgkin lymphoma", "Hodgkin's disease"),
    ("celiac disease", "coeliac disease", "gluten enteropathy"),
    ("type 2 diabetes mellitus", "NIDDM", "adult-onset diabetes"),
    ("psychosis", "psychotic disorder"),
    ("interleukin 2", "IL"),
    ("acute lymphoblastic leukemia", "ALL"),
)
"""Concepts for tests."""
