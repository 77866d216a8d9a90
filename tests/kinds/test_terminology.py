"""kind: terminology - from sources of terms to an index, and from an index to corpora and examples that use it."""

import gzip
import json
import stat
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from jobs.data.chat.terminology import ConversationTerms
from jobs.data.corpus.file_list import cleaning_of
from jobs.data.sampling.corpus_reader import CorpusReader, open_corpus
from jobs.data.terminology.edits import Edit, undo
from jobs.data.terminology.term_index import TermIndex
from jobs.data.terminology.text_steps import TextSteps
from jobs.kinds.prepare import main as prepare
from jobs.kinds.terminology import main
from jobs.models.tokenizer import load_encoder
from jobs.rank.context import Context
from launcher.artifacts.terminology_manifest import read_terminology_manifest
from launcher.cli import app
from launcher.errors import LauncherError
from launcher.recipe.kinds.prepare import Clean
from launcher.recipe.sections.terminology import Masking, SynonymDrawing, TextTerminology
from launcher.run.ledger import read_attempts
from tests.support.prepare_runs import (
    ASSETS,
    Group,
    abstracts,
    context_of,
    documents_of,
    files_of,
    make_context,
    write_pile,
)
from tests.support.stops import stopped_after
from tests.support.term_indexes import SOME, index_of, term_recipe

pytestmark = pytest.mark.slow

COUNTED = [{"format": "pile", "files": "./counted*.jsonl"}]


def task(folder: Path, **changes: Any) -> Context:
    """A task of a terminology whose indexes lie in `folder`/models."""
    models = folder / "models"
    models.mkdir(parents=True, exist_ok=True)
    for link, target in ((folder / "assets", ASSETS), (models / "stories260k", ASSETS / "stories260k")):
        if not link.exists():
            link.symlink_to(target)
    return context_of(folder, term_recipe(**changes), models)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which what is shipped has become an index, with the mentions of 300 abstracts in two files."""
    folder = tmp_path_factory.mktemp("made")
    write_pile(folder / "counted1.jsonl", abstracts()[:100])
    write_pile(folder / "counted2.jsonl", abstracts()[100:300])
    main(task(folder, count_in=COUNTED))
    return folder


def test_the_index_says_what_it_holds(made: Path) -> None:
    folder = made / "models" / "terms"
    manifest, index = read_terminology_manifest(folder), TermIndex(folder)

    assert sorted(path.name for path in folder.iterdir()) == ["concepts.tsv", "manifest.json", "terms.tsv"]
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert sorted(path.name for path in (made / "models").iterdir()) == ["stories260k", "terms"]
    assert (manifest.data_use, manifest.concepts) == ("credentialed", len(index.ids))
    assert [one.license for one in manifest.sources] == ["CC0", "CC0", "Apache-2.0"]
    assert sum(one.concepts for one in manifest.sources) == manifest.concepts == len(index.ids)
    assert manifest.terms == (folder / "terms.tsv").read_text().count("\n")
    assert [Path(file.path).name for file in manifest.files][-2:] == ["counted1.jsonl", "counted2.jsonl"]
    assert manifest.counted is not None
    assert manifest.counted.documents == 300
    assert manifest.counted.mentions == sum(index.mentioned)
    assert read_attempts(made / "run" / "attempts.jsonl")[-1].reason == "finished"


def test_mentions_are_those_of_an_independent_count(made: Path) -> None:
    index = TermIndex(made / "models" / "terms")
    number = index.preferred.index("asthma")
    names = {name.lower() for name in index.names[number]} | {"asthma"}

    text = " ".join(abstracts()[:300]).lower()

    assert index.mentioned[number] == text.count("asthma") - text.count("asthmatic") > 0
    assert not [name for name in names if name != "asthma" and f" {name}" in text]


def test_the_tables_are_sorted_text(made: Path) -> None:
    rows = [line.split("\t") for line in (made / "models" / "terms" / "terms.tsv").read_text().splitlines()]

    assert rows == sorted(rows, key=lambda row: (row[0], int(row[1]), row[2]))
    assert ["malignant neoplasm of breast"] in [row[:1] for row in rows]
    concepts = [line.split("\t") for line in (made / "models" / "terms" / "concepts.tsv").read_text().splitlines()]
    assert ["DOID:1612", "disease", "breast cancer"] in [row[:3] for row in concepts]


def test_the_same_recipe_makes_nothing_again(made: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = files_of(made / "models" / "terms")

    main(task(made, count_in=COUNTED))

    assert files_of(made / "models" / "terms") == before
    assert "terms of " in capsys.readouterr().out


def test_another_recipe_needs_another_name(made: Path) -> None:
    with pytest.raises(LauncherError, match="holds an index of other files or settings"):
        main(task(made))


def test_a_stopped_count_goes_on_with_the_next_file(tmp_path: Path, made: Path) -> None:
    for name in ("counted1.jsonl", "counted2.jsonl"):
        (tmp_path / name).write_bytes((made / name).read_bytes())
    recipe = {"count_in": COUNTED, "resources": {"cpus_per_task": 1, "time": "1h"}}
    with stopped_after(1):
        main(task(tmp_path, **recipe))
    [record] = (tmp_path / "models" / "terms.partial").glob("*/0*.json")
    written = record.stat().st_mtime_ns
    assert not (tmp_path / "models" / "terms").exists()
    [stopped] = read_attempts(tmp_path / "run" / "attempts.jsonl")
    assert (stopped.first_step, stopped.last_step, stopped.total_steps) == (0, 1, 2)

    record.touch()
    main(task(tmp_path, **recipe))

    assert written > 0
    [resumed] = read_attempts(tmp_path / "run" / "attempts.jsonl")
    assert (resumed.first_step, resumed.last_step, resumed.total_steps) == (1, 2, 2)
    for table in ("terms.tsv", "concepts.tsv"):
        first, second = (folder / "models" / "terms" / table for folder in (tmp_path, made))
        assert first.read_bytes() == second.read_bytes()


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"exclude": ["brest cancer"]}, "exclude: no source has the term `brest cancer`"),
        ({"count_in": [{**COUNTED[0], "subsets": ["x"]}]}, r"count_in\.0\.subsets: no record has `x`"),
        (
            {"terms": [{"format": "mesh", "files": "./assets/terminology/doid_cancer.obo.gz"}]},
            "records cannot be read, more than `max_bad_fraction: 0.001`.*schema mismatch",
        ),
        ({"terms": [{"format": "obo", "files": "./none*.obo"}]}, r"terms\.0\.files: `\./none\*\.obo` matches no file"),
    ],
)
def test_what_nothing_has_or_nobody_can_read_is_refused(tmp_path: Path, changes: dict[str, Any], said: str) -> None:
    write_pile(tmp_path / "counted.jsonl", abstracts()[:3])

    with pytest.raises(LauncherError, match=f"(?s){said}"):
        main(task(tmp_path, **changes))

    assert not (tmp_path / "models" / "terms").exists()


def test_wrong_semantic_types_are_refused_with_those_that_there_are(tmp_path: Path) -> None:
    conso, sty = (f"./assets/terminology/{name}.RRF.gz" for name in ("MRCONSO", "MRSTY"))
    terms = [{"format": "umls", "files": conso, "types": sty, "semantic_types": ["T047", "Neoplasm"]}]

    with pytest.raises(LauncherError, match=r"terms\.0\.semantic_types: no row has `Neoplasm`.*`Neoplastic Process`"):
        main(task(tmp_path, terms=terms))


STEPS = {"index": "terms", "masking": {"base": 0.2}, "synonyms": {"probability": 0.3}}


def prepared(folder: Path, index: Path, **changes: Any) -> CorpusReader:
    """A corpus of the files in a folder, made with an index."""
    fields = {"data_use": "credentialed", "clean": {"terminology": STEPS}, **changes}
    recipe = make_context(folder, **fields).recipe
    context = context_of(folder, recipe, index)
    prepare(context)
    return open_corpus(folder / "corpora" / "corpus")


def texts_of(corpus: CorpusReader, split: str) -> list[str]:
    """The documents of a split, decoded."""
    tokenizer = load_encoder(str(ASSETS / "stories260k"), "x").backend
    documents = documents_of(corpus, "train" if split == "train" else "validation")
    return [tokenizer.decode(ids[1:-1]) for ids in documents]


@pytest.fixture(scope="module")
def corpora(made: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[CorpusReader, CorpusReader]:
    """The same 300 documents without and with changed terms."""
    both = []
    for name, clean in (("plain", {}), ("changed", {"terminology": STEPS})):
        folder = tmp_path_factory.mktemp(name)
        write_pile(folder / "a.jsonl", abstracts()[:300])
        both.append(prepared(folder, made / "models", clean=clean))
    return both[0], both[1]


def test_held_out_documents_stay_as_they_are(corpora: tuple[CorpusReader, CorpusReader]) -> None:
    plain, changed = corpora

    assert documents_of(plain, "validation") == documents_of(changed, "validation")
    assert len(documents_of(plain, "train")) == len(documents_of(changed, "train"))
    assert documents_of(plain, "train") != documents_of(changed, "train")


def test_the_manifest_says_what_was_changed_and_by_which_index(corpora: tuple[CorpusReader, CorpusReader]) -> None:
    plain, changed = (corpus.manifest for corpus in corpora)

    counts = changed.counts.terminology
    assert plain.counts.terminology == {}
    assert {"documents", "masked", "normalised", "synonym"} <= counts.keys()
    lines = [json.loads(line) for line in (corpora[1].folder / "changes.jsonl").read_text().splitlines()]
    whys = [edit[3] for rounds in lines for edits in rounds for edit in edits]
    assert [whys.count(why) for why in ("masked", "normalised", "synonym")] == [
        counts[why] for why in ("masked", "normalised", "synonym")
    ]
    assert sum(map(bool, lines)) == counts["documents"]
    assert changed.terminology is not None
    assert (changed.terminology.index, changed.terminology.seed) == ("terms", 42)
    assert plain.terminology is plain.changes is None


def test_every_change_can_be_undone(corpora: tuple[CorpusReader, CorpusReader]) -> None:
    plain, changed = (texts_of(corpus, "train") for corpus in corpora)
    lines = [json.loads(line) for line in (corpora[1].folder / "changes.jsonl").read_text().splitlines()]

    for before, after, rounds in zip(plain, changed, lines, strict=True):
        assert undo(after, [[Edit(*edit) for edit in edits] for edits in rounds]) == before


def test_the_documents_do_not_depend_on_files_and_array_elements(
    tmp_path: Path, made: Path, corpora: tuple[CorpusReader, CorpusReader]
) -> None:
    for number in range(3):
        write_pile(tmp_path / f"{number}.jsonl", abstracts()[number * 100 : number * 100 + 100])
    group = Group(tmp_path, 2, data_use="credentialed", clean={"terminology": STEPS})
    roots = replace(group.last.record, cluster=context_of(tmp_path, group.last.recipe, made / "models").record.cluster)
    group.last = replace(group.last, record=roots)
    for index in range(2):
        prepare(group.share(index))
    prepare(group.last)

    spread = open_corpus(group.corpus)

    for split in ("train", "validation"):
        assert documents_of(spread, split) == documents_of(corpora[1], split)
    assert spread.manifest.counts == corpora[1].manifest.counts
    assert spread.manifest.changes == corpora[1].manifest.changes


def test_another_seed_draws_otherwise_and_is_another_corpus(
    tmp_path: Path, made: Path, corpora: tuple[CorpusReader, CorpusReader]
) -> None:
    write_pile(tmp_path / "a.jsonl", abstracts()[:300])

    other = prepared(tmp_path, made / "models", seed=7)

    assert other.manifest.fingerprint != corpora[1].manifest.fingerprint
    assert documents_of(other, "train") != documents_of(corpora[1], "train")
    assert other.manifest.counts.terminology["normalised"] == corpora[1].manifest.counts.terminology["normalised"]


def test_dropped_duplicates_take_their_changes_along(tmp_path: Path, made: Path) -> None:
    texts = abstracts()[:60]
    write_pile(tmp_path / "a.jsonl", texts)
    write_pile(tmp_path / "b.jsonl", [*texts[30:], *abstracts()[60:80]])

    corpus = prepared(tmp_path, made / "models", clean={"terminology": STEPS, "exact_duplicates": "drop"})

    lines = (corpus.folder / "changes.jsonl").read_text().splitlines()
    assert corpus.manifest.counts.dropped == {"duplicate": 30}
    assert len(lines) == corpus.manifest.counts.documents["train"]
    for text, line in zip(texts_of(corpus, "train"), lines, strict=True):
        for edits in json.loads(line)[-1:]:
            for start, _, new, _ in edits:
                assert text[start : start + len(new)] == new


def test_the_command_line_shows_and_verifies_changes(corpora: tuple[CorpusReader, CorpusReader]) -> None:
    plain, changed = (str(corpus.folder) for corpus in corpora)
    options = ["--i-have-credentials", "--changes", "-n", "400"]

    shown = CliRunner().invoke(app, ["corpus", "sample", changed, *options])
    as_json = CliRunner().invoke(app, ["corpus", "sample", changed, *options, "--json"])
    refused = CliRunner().invoke(app, ["corpus", "sample", plain, *options])

    counts = corpora[1].manifest.counts.terminology
    assert shown.output.count("  masked      ") == counts["masked"]
    changes = [one for document in json.loads(as_json.output)["documents"] for one in document["changes"]]
    assert len(changes) == counts["masked"] + counts["normalised"] + counts["synonym"]
    assert isinstance(refused.exception, LauncherError)
    assert "was made without `clean.terminology`" in str(refused.exception)
    assert CliRunner().invoke(app, ["corpus", "verify", changed]).exit_code == 0
    table = CliRunner().invoke(app, ["corpus", "show", changed]).output
    assert table.partition("terms masked")[2].split()[0] == f"{counts['masked']:,}"


def test_damaged_changes_are_found(tmp_path: Path, made: Path) -> None:
    write_pile(tmp_path / "a.jsonl", abstracts()[:30])
    corpus = prepared(tmp_path, made / "models")
    path = corpus.folder / "changes.jsonl"
    path.write_bytes(path.read_bytes()[:-3] + b"[ ]"[:3])

    done = CliRunner().invoke(app, ["corpus", "verify", str(corpus.folder)])

    assert done.exit_code == 1
    assert "changes.jsonl: has another SHA-256" in done.output


def test_an_open_corpus_cannot_use_a_credentialed_index(tmp_path: Path, made: Path) -> None:
    write_pile(tmp_path / "a.jsonl", abstracts()[:3])

    with pytest.raises(LauncherError, match=r"clean\.terminology\.index: `terms` was made of credentialed data"):
        prepared(tmp_path, made / "models", data_use="open")


def test_masking_needs_counted_mentions(tmp_path: Path) -> None:
    write_pile(tmp_path / "a.jsonl", abstracts()[:3])
    index_of(tmp_path / "models" / "terms", SOME)
    (tmp_path / "models" / "stories260k").symlink_to(ASSETS / "stories260k")

    with pytest.raises(LauncherError, match=r"clean\.terminology\.masking: `terms` has counted no mentions"):
        prepared(tmp_path, tmp_path / "models", data_use="open")


def test_corpora_without_changed_terms_keep_the_settings_that_their_checksum_covers(tmp_path: Path) -> None:
    without, with_terms = (make_context(tmp_path, clean=clean).recipe for clean in ({}, {"terminology": STEPS}))

    assert cleaning_of(without).keys() == Clean().model_dump().keys() - {"terminology"}
    assert cleaning_of(with_terms).keys() == Clean().model_dump().keys()


def test_only_the_users_turns_are_masked_and_varied(tmp_path: Path) -> None:
    index = index_of(tmp_path / "terms", SOME, mentions={"lung cancer": 3})
    always = Masking(base=1.0, most=1.0, exponent=0)
    terms = ConversationTerms(TextSteps(TextTerminology(index="terms", masking=always), 1, index))
    turns = [("system", "a heart attack"), ("user", "a heart attack?"), ("assistant", "A heart attack.")]

    changed = terms.change([{"role": role, "content": content} for role, content in turns])

    contents = [message["content"] for message in changed]
    assert contents == ["a heart attack", "a [disease]?", "A myocardial infarction."]
    assert terms.counts == {"normalised": 2, "masked": 1, "documents": 1}


def test_synonyms_are_drawn_by_seed_and_text(tmp_path: Path) -> None:
    index = index_of(tmp_path / "terms", SOME)
    settings = TextTerminology(index="terms", normalise=False, synonyms=SynonymDrawing(probability=0.5))
    text = "lung cancer " * 30

    first, again, other = (TextSteps(settings, seed, index).run(text).text for seed in (1, 1, 2))

    assert first == again != other


def test_the_shipped_abbreviations_are_small_and_ours() -> None:
    content = json.loads((ASSETS / "terminology" / "abbreviations.json").read_text())
    rows = gzip.decompress((ASSETS / "terminology" / "MRCONSO.RRF.gz").read_bytes()).splitlines()

    assert len(content) < 20
    assert {row.split(b"|")[11] for row in rows} == {b"DO"}


def test_a_folder_of_models_that_may_not_be_written_is_named(stranger: Path) -> None:
    context = task(stranger)
    (stranger / "models").chmod(0o555)

    with pytest.raises(
        LauncherError, match=r"\.partial: permission denied; ask its owner, or set a `roots\.models` of"
    ):
        main(context)
