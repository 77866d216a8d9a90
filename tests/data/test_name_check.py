"""Each name that a source says must be in its records: this is checked once all of its files are read."""

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet
import pytest

from jobs.data.corpus.file_list import FileList, corpus_file_list
from jobs.data.corpus.finalise import finalise
from jobs.data.corpus.name_check import check_names
from jobs.data.corpus.source_file import ProcessedFile, finished_file, process_file
from jobs.data.vocabulary.source_file import count_file, vocabulary_file_list
from launcher.errors import LauncherError
from launcher.recipe.names import SourceNames
from tests.data.test_medline import record
from tests.data.test_notes import write_noteevents
from tests.support.expandable_tokenizers import recipe_of
from tests.support.prepare_runs import ASSETS, context_of, make_context, write_pile, write_source


def document(subset: object, number: int = 0) -> dict[str, object]:
    return {"text": f"Text {number} of {subset}.", "meta": {"pile_set_name": subset}}


def write_citations(path: Path, *languages: str) -> None:
    records = "".join(
        record(f'<PMID Version="1">{number}</PMID>', rest=f"<Language>{language}</Language>")
        for number, language in enumerate(languages, 1)
    )
    write_source(path, f"<PubmedArticleSet>{records}</PubmedArticleSet>".encode())


def write_parquet(path: Path, **columns: list[str]) -> None:
    pyarrow.parquet.write_table(pa.table(columns), path)


def write_all(folder: Path) -> None:
    """Files of each format: ten records with the common value, one with the rare one."""
    pile = [*(document("PubMed Abstracts", number) for number in range(10)), document("FreeLaw"), {"text": "none"}]
    write_pile(folder / "a.jsonl", pile[:6])
    write_pile(folder / "b.jsonl", [*pile[6:], document(["no", "name"]), document(7)])
    for name, category in (("NOTEEVENTS_1.csv", "Nursing"), ("NOTEEVENTS_2.csv", "Physician ")):
        write_noteevents(folder / name, {"SUBJECT_ID": 7, "CATEGORY": category, "TEXT": f"{category} wrote."})
    write_citations(folder / "a.xml", "eng", "eng", "ger")
    write_citations(folder / "b.xml", "fre")
    write_parquet(folder / "a.parquet", text=["One text."], title=["A title."])


def process(folder: Path, *sources: dict[str, object], **changes: object) -> tuple[FileList, list[ProcessedFile]]:
    files = corpus_file_list(make_context(folder, sources=list(sources), max_bad_fraction=1, **changes))
    return files, [process_file(files, number) for number in range(len(files.sources))]


def complaint(folder: Path, *sources: dict[str, object], **changes: object) -> str:
    """What is said when the corpus is to be made; nothing is made then."""
    files, processed = process(folder, *sources, **changes)
    with pytest.raises(LauncherError) as caught:
        finalise(files, processed)
    assert {path.name for path in files.work.iterdir()} == {"parts"}
    return str(caught.value)


PILE = {"format": "pile", "files": "./*.jsonl"}
MIMIC = {"format": "mimic_iii", "files": "./NOTEEVENTS*.csv"}
MEDLINE = {"format": "medline", "files": "./*.xml"}
PARQUET = {"format": "parquet", "files": "./*.parquet"}


@pytest.mark.parametrize(
    ("source", "names", "said"),
    [
        (
            PILE | {"subsets": ["PubMed Abstract"]},
            "subsets: no record has `PubMed Abstract` as `meta.pile_set_name`",
            "there are `PubMed Abstracts` (10 records), `FreeLaw` (1 record);",
        ),
        (
            PILE | {"subsets": ["FreeLaw", "PubMed Abstract"]},
            "subsets: no record has `PubMed Abstract` as",
            "there are `PubMed Abstracts` (10 records), `FreeLaw` (1 record);",
        ),
        (
            MIMIC | {"categories": ["Physician", "Nursery"]},
            "categories: no record has `Nursery` as `CATEGORY`",
            "there are `Nursing` (1 record), `Physician` (1 record);",
        ),
        (
            MEDLINE | {"languages": ["eng", "gre"]},
            "languages: no citation has `gre` as `Language`",
            "there are `fre` (1 citation), `ger` (1 citation), `eng` (2 citations);",
        ),
        (PARQUET | {"column": "txt"}, "column: no file has `txt` as a column", "there are `text` (1 file), `title`"),
    ],
    ids=str,
)
def test_a_name_that_nothing_has_is_refused_even_beside_others(
    tmp_path: Path, source: dict[str, object], names: str, said: str
) -> None:
    write_all(tmp_path)
    others = [PILE] if source["format"] != "pile" else []

    found = complaint(tmp_path, *others, source, data_use="credentialed" if source["format"] == "mimic_iii" else "open")

    assert found.startswith(f"sources.{len(others)}.{names}")
    assert said in found


def test_all_names_that_nothing_has_are_said_at_once(tmp_path: Path) -> None:
    write_all(tmp_path)

    found = complaint(tmp_path, PILE | {"subsets": ["a", "b"]}, MEDLINE | {"languages": ["gre"]})

    assert [line.partition(": ")[0] for line in found.splitlines()] == ["sources.0.subsets", "sources.1.languages"]
    assert "`a`, `b`" in found


@pytest.mark.parametrize(
    "source",
    [
        PILE | {"subsets": ["FreeLaw", "PubMed Abstracts"]},
        MIMIC | {"categories": [" Physician", "Nursing"]},
        MEDLINE | {"languages": ["eng", "fre"]},
        PARQUET,
    ],
    ids=str,
)
def test_a_value_may_be_in_one_file_only(tmp_path: Path, source: dict[str, object]) -> None:
    write_all(tmp_path)

    files, processed = process(tmp_path, source, data_use="credentialed", validation=0)

    check_names(files, processed)
    finalise(files, processed)


def test_updates_of_medline_without_a_language_of_the_baseline_are_read(tmp_path: Path) -> None:
    write_citations(tmp_path / "a.xml", "eng", "eng")
    write_citations(tmp_path / "b.xml", "fre")

    check_names(*process(tmp_path, MEDLINE | {"files": "./a.xml"}, MEDLINE | {"files": "./b.xml"}))


def test_a_vocabulary_refuses_them_as_well(tmp_path: Path) -> None:
    write_all(tmp_path)
    (tmp_path / "models").mkdir()
    (tmp_path / "base").symlink_to(ASSETS / "stories260k")
    recipe = recipe_of(tokenizer="./base", sources=[PILE | {"subsets": ["FreeLaw", "PubMed"]}])
    files = vocabulary_file_list(context_of(tmp_path, recipe, tmp_path / "models"))
    files.parts.mkdir(parents=True)

    processed = [count_file(files, number) for number in range(len(files.sources))]

    with pytest.raises(LauncherError, match=r"^sources\.0\.subsets: no record has `PubMed` .* `PubMed Abstracts` \(10"):
        check_names(files, processed)


def test_records_of_earlier_versions_are_read_and_not_judged(tmp_path: Path) -> None:
    write_all(tmp_path)
    files, processed = process(tmp_path, PILE | {"subsets": ["typo"]})
    before = json.loads(files.record(0).read_text())
    assert before.pop("values") == {"typo": 0, "PubMed Abstracts": 6}
    files.record(0).write_text(json.dumps(before))

    old = finished_file(files, 0)

    assert old is not None
    assert old.values is None
    check_names(files, [old, *processed[1:]])


def test_rare_values_of_credentialed_data_are_not_listed() -> None:
    names, there = SourceNames("subsets", ("noteS",), "`source`"), {"notes": 11, "Mrs Smith": 10, "noteS": 0}

    open_, credentialed = names.fault(there, "open"), names.fault(there, "credentialed")

    assert open_ is not None
    assert credentialed is not None
    assert "`Mrs Smith` (10 records)" in open_
    assert "Smith" not in credentialed
    assert "`notes` (11 records) (and 1 that fewer than 11 records have" in credentialed


def test_values_are_counted_in_bounded_memory_and_those_of_the_recipe_always(tmp_path: Path) -> None:
    write_pile(tmp_path / "a.jsonl", [document(f"subset {number}", number) for number in range(1200)])
    write_pile(tmp_path / "b.jsonl", [document("x" * 1000)])

    files, processed = process(tmp_path, PILE | {"subsets": ["subset 1199"]})

    check_names(files, processed)
    first, second = (one.values for one in processed)
    assert first is not None
    assert first["subset 1199"] == 1
    assert len(first) == 1000
    assert second == {"subset 1199": 0}
