"""Sources of terms: what each format gives, what is left out and counted, what is refused."""

import gzip
import hashlib
import json
from collections import Counter
from pathlib import Path

import pytest

from jobs.data.readers.source_stream import SourceStream
from jobs.data.terminology.concept import Concept
from jobs.data.terminology.index_tables import IndexTables
from jobs.data.terminology.term_sources import natural_order, read_abbreviations, read_mesh, read_obo
from jobs.data.terminology.umls import UmlsValues, read_umls
from launcher.errors import LauncherError
from launcher.recipe.sections.terminology import MeshTerms, OboTerms, UmlsTerms
from tests.support.prepare_runs import ASSETS
from tests.support.shared_data import shared_data
from tests.support.term_indexes import SHIPPED_TERMS

OBO = """\
format-version: 1.2

[Term]
id: DOID:1
name: heart attack
alt_id: DOID:9
synonym: "myocardial infarction" EXACT []
synonym: "MI" EXACT OMO:0003012 []
synonym: "coronary \\"event\\"" RELATED [X:1]
is_a: DOID:2 ! heart disease

[Term]
id: DOID:3
name: gone
is_obsolete: true

[Term]
id: DOID:4
synonym: "nameless" EXACT []

[Typedef]
id: part_of
name: part of
"""


def stream(folder: Path, text: str, name: str = "file") -> SourceStream:
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return SourceStream(path)


def test_obo_terms_are_read(tmp_path: Path) -> None:
    left_out, source = Counter[str](), stream(tmp_path, OBO)

    found = list(read_obo([source], OboTerms(format="obo", files="x"), left_out))

    assert found == [Concept("DOID:1", "heart attack", "disease", ["myocardial infarction", "MI"])]
    assert left_out == {"scope_related": 1, "obsolete": 1}
    assert source.bad == 1
    assert source.first_bad == [f"{source.path}:17: a [Term] without exactly one `id` and one `name`"]


def test_wider_scopes_are_read_if_the_recipe_says_so(tmp_path: Path) -> None:
    terms = OboTerms(format="obo", files="x", scopes=("EXACT", "RELATED"))

    [found] = read_obo([stream(tmp_path, OBO)], terms, Counter())

    assert found.synonyms[-1] == 'coronary "event"'


def atom(cui: str, text: str, **changes: str) -> str:
    c = {"LAT": "ENG", "TS": "S", "STT": "VO", "ISPREF": "N", "SAB": "MSH", "SUPPRESS": "N"} | changes
    start = [cui, c["LAT"], c["TS"], "L1", c["STT"], "S1", c["ISPREF"], "A1", "", "", "", c["SAB"], "SY", "X", text]
    return "|".join([*start, "0", c["SUPPRESS"], "256", ""])


CONSO = "\n".join(
    [
        atom("C1", "Heart attack"),
        atom("C1", "Myocardial infarction", TS="P", STT="PF", ISPREF="Y"),
        atom("C1", "Infarctus", LAT="FRE"),
        atom("C1", "Old name", SUPPRESS="O"),
        atom("C1", "Infarct of heart", SAB="NCI"),
        atom("C2", "Aspirin", TS="P", STT="PF", ISPREF="Y"),
        "C3|ENG",
    ]
)
STY = "C1|T047|B2|Disease or Syndrome|AT1|256|\nC2|T121|A1|Pharmacologic Substance|AT2|256|\n"


def read_rrf(folder: Path, **options: object) -> tuple[list[Concept], Counter[str], list[tuple[str, str]], int]:
    source, left_out, values = UmlsTerms(format="umls", files="x", types="y", **options), Counter[str](), UmlsValues()
    conso = stream(folder, CONSO, "MRCONSO.RRF")
    found = list(read_umls([conso], source, left_out, [stream(folder, STY, "MRSTY.RRF")], values))
    return found, left_out, list(values.faults(source)), conso.bad


def test_umls_terms_are_read(tmp_path: Path) -> None:
    found, left_out, faults, bad = read_rrf(tmp_path, semantic_types=("T047",))

    names = ["Heart attack", "Infarct of heart"]
    assert found == [Concept("C1", "Myocardial infarction", "Disease or Syndrome", names)]
    assert left_out == {"other_language": 1, "suppressed": 1, "other_type": 1}
    assert (faults, bad) == ([], 1)


def test_the_first_vocabulary_that_knows_a_concept_has_its_preferred_term(tmp_path: Path) -> None:
    found, *_ = read_rrf(tmp_path, vocabularies=("NCI", "MSH"))

    assert found[0].preferred == "Infarct of heart"


def test_what_a_filter_names_must_be_there(tmp_path: Path) -> None:
    options = {"vocabularies": ("MSH", "SNOMED"), "semantic_types": ("T999",), "languages": ("ENG", "GER")}

    *_, faults, _ = read_rrf(tmp_path, **options)

    assert [key for key, _ in faults] == ["languages", "vocabularies", "semantic_types"]
    assert "no row has `SNOMED` as `SAB`; there are `MSH` (5 rows)" in faults[1][1]


def test_mesh_names_are_read_in_their_natural_order(tmp_path: Path) -> None:
    table = stream(tmp_path, "mesh_id\tmesh_name\nD1\tAbdomen, Acute\nD2\tNeoplasms\nD3\n", "terms.tsv")
    trees = "mesh_id\tmesh_name\tmesh_tree_number\nD1\tx\tC23.888\nD2\tx\tC04\nD2\tx\tA01\n"
    source = MeshTerms(format="mesh", files="x", tree_numbers="y", trees=("C23", "F03"))
    left_out, numbers = Counter[str](), stream(tmp_path, trees, "trees.tsv")

    found = list(read_mesh([table], source, left_out, [numbers]))

    assert found == [Concept("D1", "Acute Abdomen", "subject", ["Abdomen, Acute"])]
    assert left_out == {"other_tree": 1}
    assert table.bad == 1
    assert numbers.values is not None
    assert (numbers.values["C23"], numbers.values["F03"]) == (1, 0)


@pytest.mark.parametrize("name", ["Acids, Bases and Salts", "Rest, Deep, and Slow", "Neoplasms"])
def test_lists_of_names_are_not_turned_around(name: str) -> None:
    assert natural_order(name) == name


def test_abbreviations_are_read(tmp_path: Path) -> None:
    source = stream(tmp_path, json.dumps({"MI": ["a b", "c"], "X": 3}))

    assert list(read_abbreviations([source])) == [("MI", "a b"), ("MI", "c")]
    assert (source.count, source.bad) == (2, 1)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[1]", r"ab\.json: is not a JSON object of abbreviations; "),
        ('{\n"MI": ["a b"],\n"X": ', r"ab\.json:3: is not JSON: [a-z ]+; correct the file, or fetch it again"),
        ("", r"ab\.json:1: is not JSON: "),
    ],
)
def test_a_list_of_abbreviations_that_cannot_be_parsed_is_refused(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(LauncherError, match=said):
        list(read_abbreviations([stream(tmp_path, text, "ab.json")]))


def test_a_list_of_abbreviations_that_is_not_whole_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "ab.json.gz"
    path.write_bytes(gzip.compress(json.dumps({f"AB{number}": ["x"] for number in range(99)}).encode())[:-9])

    with pytest.raises(LauncherError, match=r"ab\.json\.gz: the file is corrupt: .*; fetch it again"):
        list(read_abbreviations([SourceStream(path)]))


def test_a_table_without_a_column_is_bad_in_all_its_rows_and_read_to_its_end(tmp_path: Path) -> None:
    table = stream(tmp_path, "DescriptorUI\tname\n" + "D1\tAbdomen\n" * 300, "terms.tsv")

    assert list(read_mesh([table], MeshTerms(format="mesh", files="x"), Counter(), [])) == []

    assert table.bad == table.count == 301
    assert table.first_bad == [f"{table.path}:1: schema mismatch: no column mesh_id, mesh_name"]
    assert table.sha256 == hashlib.sha256(table.path.read_bytes()).hexdigest()


def tables(*sources: list[Concept], exclude: tuple[str, ...] = ()) -> IndexTables:
    made = IndexTables(exclude)
    for concepts in sources:
        made.add(concepts, Counter())
    made.decide()
    return made


def concept(preferred: str, *synonyms: str, id: str = "") -> Concept:
    return Concept(id or preferred, preferred, "disease", list(synonyms))


def meanings(made: IndexTables, key: str) -> list[str]:
    return [made.concepts[number].preferred for its, number, _ in made.terms if its == key]


def test_a_preferred_term_means_its_concept_alone() -> None:
    made = tables([concept("stroke", "apoplexy"), concept("heat stroke", "stroke", "sunstroke")])

    assert meanings(made, "stroke") == ["stroke"]
    assert made.left_out[0] == {"preferred_term_of_another_concept": 1}


def test_the_first_source_that_knows_a_term_decides() -> None:
    made = tables([concept("influenza", "flu")], [concept("common cold", "flu", "coryza")])

    assert meanings(made, "flu") == ["influenza"]
    assert (made.origins, made.left_out[1]) == ([(1, 2), (1, 2)], {"known_from_an_earlier_source": 1})


def test_a_synonym_of_two_concepts_is_ambiguous() -> None:
    made = tables([concept("common cold", "cold"), concept("low temperature", "cold")])

    assert meanings(made, "cold") == ["common cold", "low temperature"]
    assert made.ambiguous == 1


def test_concepts_of_one_name_are_one() -> None:
    made = tables([concept("fibrosis", id="C1"), concept("Fibrosis", "scarring", id="C2")])

    assert meanings(made, "fibrosis") == ["fibrosis"]
    assert made.left_out[0] == {"same_name_as_another_concept": 1}


def test_a_concept_of_an_earlier_source_gets_more_names() -> None:
    made = tables([concept("fibrosis", id="C1")], [concept("scar tissue", "scarring", id="C1")])

    assert [one.preferred for one in made.concepts] == ["fibrosis"]
    assert meanings(made, "scar tissue") == meanings(made, "scarring") == ["fibrosis"]


def test_terms_that_cannot_be_found_in_text_are_left_out_and_counted() -> None:
    made = tables([concept("asthma", "x", "12", "asthma+", "word " * 13, "old asthma")], exclude=("Old  asthma",))

    assert {key for key, _, _ in made.terms} == {"asthma"}
    left_out = {"too_short": 1, "no_letter": 1, "begins_or_ends_with_a_sign": 1, "too_long": 1, "excluded": 1}
    assert made.left_out[0] == left_out
    assert made.unknown_exclusions() == []


def test_a_term_to_leave_out_must_be_there() -> None:
    assert tables([concept("asthma")], exclude=("ashtma", "asthma")).unknown_exclusions() == ["ashtma"]


def test_an_abbreviation_gets_the_meanings_of_all_lists_and_the_concepts_that_are_known() -> None:
    made = IndexTables()
    made.add([concept("myocardial infarction", "heart attack")], Counter())
    made.add_meanings([("MI", "heart attack"), ("MI", "mitral insufficiency")], "abbreviation")
    made.decide()

    assert meanings(made, "mi") == ["myocardial infarction", "mitral insufficiency"]
    assert [one.type for one in made.concepts] == ["disease", "abbreviation"]


def test_every_shipped_source_is_sound() -> None:
    for source in SHIPPED_TERMS:
        assert (ASSETS.parent / source["files"]).is_file()
    terms = OboTerms(format="obo", files="x")
    doid = SourceStream(ASSETS / "terminology" / "doid_cancer.obo.gz")
    with gzip.open(doid.path, "rt") as file:
        stanzas = file.read().split("\n[Term]\n")[1:]

    found = list(read_obo([doid], terms, Counter()))

    living = [stanza for stanza in stanzas if "is_obsolete: true" not in stanza]
    assert [one.preferred for one in found] == [one.partition("name: ")[2].partition("\n")[0] for one in living]
    assert (len(found) > 700, doid.bad) == (True, 0)


def test_all_of_mesh_2015_is_read() -> None:
    table = SourceStream(shared_data("terminology/mesh2015_terms.tsv.gz"))

    found = list(read_mesh([table], MeshTerms(format="mesh", files="x"), Counter(), []))

    assert (len(found), table.bad) == (27_455, 0)
