"""kind: terminology - what cannot be read: refused source by source, or told in the log and the manifest."""

import json
from pathlib import Path
from typing import Any

import pytest

from jobs.kinds.terminology import main, summary
from launcher.artifacts.corpus_manifest import MANIFEST
from launcher.artifacts.terminology_manifest import TerminologyManifest, read_terminology_manifest
from launcher.errors import LauncherError
from tests.support.prepare_runs import context_of, write_pile
from tests.support.term_indexes import term_recipe

OBO = {"format": "obo", "files": "./many.obo"}
PILE = {"format": "pile", "files": "./many.jsonl"}


def make(folder: Path, **changes: Any) -> TerminologyManifest:
    """Make an index of 3,000 diseases, and of what else the recipe names."""
    stanzas = "".join(f"[Term]\nid: D:{number}\nname: disease number {number}\n\n" for number in range(3000))
    (folder / "many.obo").write_text(f"format-version: 1.2\n\n{stanzas}")
    main(context_of(folder, term_recipe(terms=[OBO, *changes.pop("terms", [])], **changes), folder / "models"))
    return read_terminology_manifest(folder / "models" / "terms")


@pytest.mark.parametrize(
    ("content", "what"),
    [
        ("DescriptorUI\tname\nD1\tAbdomen\nD2\tAbdominal Pain\n", "3 of 3 .*:1: schema mismatch: no column mesh_id"),
        ("mesh_id\tmesh_name\nD1\tAbdomen\nD2\n", "1 of 3 .*:3: has 1 cells, the first row 2"),
        ("", "1 of 1 .*:1: the file holds no record; fetch it again"),
    ],
)
def test_a_small_source_that_cannot_be_read_is_not_lost_beside_a_large_one(
    tmp_path: Path, content: str, what: str
) -> None:
    (tmp_path / "mesh.tsv").write_text(content)

    with pytest.raises(LauncherError, match=rf"(?s)^terms\.1: {what}"):
        make(tmp_path, terms=[{"format": "mesh", "files": "./mesh.tsv"}])

    assert not (tmp_path / "models" / "terms").exists()


def test_a_torn_list_of_abbreviations_ends_the_run(tmp_path: Path) -> None:
    whole = json.dumps({f"AB{number}": ["a meaning"] for number in range(50)}, indent=1)
    (tmp_path / "ab.json").write_text(whole[:-20])

    with pytest.raises(LauncherError, match=rf"^{tmp_path}/ab\.json:\d+: is not JSON"):
        make(tmp_path, terms=[{"format": "abbreviations", "files": "./ab.json"}], max_bad_fraction=1)

    assert not (tmp_path / "models" / "terms").exists()


def test_all_sources_that_cannot_be_read_are_named(tmp_path: Path) -> None:
    for name in ("one", "two"):
        (tmp_path / f"{name}.tsv").write_text("other\tcolumns\n")

    with pytest.raises(LauncherError, match=r"(?s)^terms\.1: 1 of 1 .*one\.tsv:1.*\nterms\.2: 1 of 1 .*two\.tsv:1"):
        make(tmp_path, terms=[{"format": "mesh", "files": f"./{name}.tsv"} for name in ("one", "two")])


def test_text_of_one_source_that_cannot_be_read_is_not_lost_beside_another(tmp_path: Path) -> None:
    write_pile(tmp_path / "many.jsonl", ["disease number 7"] * 3000)
    (tmp_path / "few.jsonl").write_text('{"text": "disease number 8"}\n{\n')

    with pytest.raises(LauncherError, match=r"(?s)^count_in\.1: 1 of 2 records cannot be read.*few\.jsonl:2: is not"):
        make(tmp_path, count_in=[PILE, {**PILE, "files": "./few.jsonl"}])


def test_bad_records_that_are_allowed_are_in_the_log_and_the_manifest(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "ab.json").write_text(json.dumps({"DN": ["disease number 1"], "X": 3}))
    (tmp_path / "many.jsonl").write_text('{"text": "DN is disease number 7"}\n{\n{"text": "disease number 8"}\n')

    manifest = make(
        tmp_path, terms=[{"format": "abbreviations", "files": "./ab.json"}], count_in=[PILE], max_bad_fraction=0.5
    )

    log = capsys.readouterr().out
    bad = (f"{tmp_path}/ab.json:2: is not a list of meanings", f"{tmp_path}/many.jsonl:2: is not JSON: ")
    assert "terms.0: 9,001 records, 0 unreadable\n" in log
    assert f"terms.1: 2 records, 1 unreadable\n    {bad[0]}\n" in log
    assert f"count_in.0: 3 records, 1 unreadable\n    {bad[1]}" in log
    assert [(one.records, one.bad_records) for one in manifest.sources] == [(9001, 0), (2, 1)]
    assert manifest.counted is not None
    assert (manifest.counted.documents, manifest.counted.records, manifest.counted.bad_records) == (2, 3, 1)
    assert len(manifest.bad_examples) == 2
    assert all(example.startswith(start) for example, start in zip(manifest.bad_examples, bad, strict=True))


def test_an_index_that_an_earlier_version_made_is_read(tmp_path: Path) -> None:
    write_pile(tmp_path / "many.jsonl", ["disease number 7"])
    made = make(tmp_path, count_in=[PILE])
    path = tmp_path / "models" / "terms" / MANIFEST
    content = json.loads(path.read_text())
    del content["bad_examples"]
    for part in (*content["sources"], content["counted"]):
        del part["records"], part["bad_records"]
    path.write_text(json.dumps(content))

    earlier = read_terminology_manifest(path.parent)

    assert (earlier.sources[0].terms, earlier.bad_examples) == (made.sources[0].terms, ())
    assert summary(earlier) == summary(made)
