"""From parts to the corpus: what is dropped, how shards are merged, and that no kill changes a byte."""

import json
import os
import shutil
from dataclasses import replace
from itertools import chain

import numpy as np
import pytest
from datatrove.data import Document
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer

from jobs.data import merge, readers
from jobs.data.corpus import open_corpus
from jobs.data.decide import decide
from jobs.data.finalise import finalise
from jobs.data.keys import load_keys
from jobs.data.parts import make_part
from jobs.data.plan import make_plan
from jobs.data.shards import split_of, text_hash
from jobs.prepare import main, publish
from jobs.runtime.stop import StopFlag
from launcher.corpus import MANIFEST, TOKENIZER, read_manifest
from launcher.errors import LauncherError
from launcher.paths import FINISHED
from tests.corpora import flaws_of
from tests.dropping import files, verdicts_by_hand
from tests.killing import Killed
from tests.preparing import Group, abstracts, documents_of, files_of, make_context, write_pile, write_source
from tests.shared_data import shared_data

some = settings(max_examples=30)


@pytest.fixture
def told(monkeypatch):
    """Let files say of their documents what a reader would say."""
    monkeypatch.setitem(readers._READERS, "pile", read_told)


def read_told(intake, source):
    for number, line in intake.lines():
        fields = json.loads(line)
        for identity, version in fields.get("deleted", ()):
            intake.withdraw(identity, version)
        if "text" in fields:
            yield Document(fields["text"], str(number), metadata=fields.get("meta", {}))


def write_told(folder, files):
    """Write files of documents as `read_told` reads them."""
    for number, file in enumerate(files):
        records = [{"deleted": file.deleted}, *map(record_of, file.docs)]
        write_pile(folder / f"{number:03d}.jsonl", records)


def record_of(doc):
    identity = {} if doc.identity is None else {"identity": doc.identity, "version": doc.version}
    drop = {} if doc.is_written else {"drop": "other"}
    return {"text": text_of(doc.text), "meta": identity | drop}


def text_of(number):
    return f"Text {number}" + " and more" * (number % 7)


def plan_of(folder, **changes):
    return make_plan(make_context(folder, **{"validation": 0.3} | changes))


def make_parts(plan):
    return [make_part(plan, number) for number in range(len(plan.files))]


def complete(plan, parts):
    assert finalise(plan, parts, lambda: False)
    publish(plan)
    corpus = open_corpus(plan.folder)
    assert flaws_of(corpus.folder) == []
    return corpus


def documents_by_file(files, plan, drops_duplicates):
    """Token ids of what stays in each split of each file, by the rules in plain Python."""
    for file, verdicts in zip(files, verdicts_by_hand(files, drops_duplicates), strict=True):
        expected = {"train": [], "validation": []}
        written = [doc for doc in file.docs if doc.is_written]
        for doc, verdict in zip(written, verdicts, strict=True):
            text = text_of(doc.text)
            if verdict is None:
                split = split_of(text_hash(text), plan.recipe.validation)
                expected[split] += plan.encoder.encode([text])
        yield expected


@pytest.mark.slow
@some
@given(
    files=files.filter(len),
    drops=st.booleans(),
    sizes=st.tuples(st.sampled_from([1, 30, 10**6]), st.sampled_from([1, 13, 10**6]), st.integers(1, 40)),
    cpus=st.integers(1, 3),
    tasks=st.integers(1, 4),
    order=st.randoms(),
)
def test_every_token_of_every_document_that_stays_is_in_one_place(
    tmp_path_factory, *, told, monkeypatch, files, drops, sizes, cpus, tasks, order
):
    shard_tokens, at_once, length = sizes
    monkeypatch.setattr(merge, "SHARD_TOKENS", shard_tokens)
    monkeypatch.setattr(merge, "_COPIED_AT_ONCE", at_once)
    folder = tmp_path_factory.mktemp("corpus")
    write_told(folder, files)
    clean = {"exact_duplicates": "drop" if drops else "keep"}
    resources = {"cpus_per_task": cpus, "time": "1h"}
    group = Group(folder, tasks, validation=0.3, clean=clean, resources=resources)
    by_file = list(documents_by_file(files, make_plan(group.last), drops))
    expected = {split: [ids for its in by_file for ids in its[split]] for split in ("train", "validation")}
    shares = order.sample(range(tasks), order.randint(0, tasks))  # the last run makes what is missing
    for index in shares:
        assert main(group.share(index), StopFlag()) == FINISHED
    if not expected["train"]:
        with pytest.raises(LauncherError, match="no document is left for training"):
            main(group.last, StopFlag())
        return

    assert main(group.last, StopFlag()) == FINISHED

    corpus = open_corpus(group.corpus)
    assert flaws_of(corpus.folder) == []
    for source, its in zip(corpus.manifest.sources, by_file, strict=True):
        assert source.documents == {split: len(documents) for split, documents in its.items()}
        assert source.tokens == {split: sum(map(len, documents)) for split, documents in its.items()}
    for split, documents in expected.items():
        assert documents_of(corpus, split) == documents
        assert corpus.manifest.counts.documents[split] == len(documents)
        tokens = list(chain.from_iterable(documents))
        assert corpus.tokens(split) == len(tokens)
        windows = [corpus.read(split, i, i + length)[0].tolist() for i in range(0, len(tokens) - length + 1, length)]
        assert list(chain.from_iterable(windows)) == tokens[: len(tokens) // length * length]
        assert all(shard.tokens >= shard_tokens for shard in corpus.manifest.shards[split][:-1])


def test_what_was_dropped_is_counted_by_reason(tmp_path, told):
    near = " ".join(abstracts()[0].split())
    write_pile(
        tmp_path / "a.jsonl",
        [
            {"text": "old", "meta": {"identity": 1, "version": 1}},
            {"text": "gone", "meta": {"identity": 2}},
            {"text": "twice"},
            {"text": near},
        ],
    )
    write_pile(
        tmp_path / "b.jsonl",
        [
            {"text": "new", "meta": {"identity": 1, "version": 2}},
            {"deleted": [(2, 0)]},
            {"text": "twice"},
            {"text": f"{near} Copyright."},
            {"text": "foreign", "meta": {"drop": "other_language"}},
        ],
    )
    clean = {"exact_duplicates": "drop", "near_duplicates": {}}
    plan = plan_of(tmp_path, validation=0, clean=clean)

    corpus = complete(plan, make_parts(plan))

    assert corpus.manifest.counts.dropped == {
        "other_language": 1,
        "deleted": 1,
        "superseded": 1,
        "duplicate": 1,
        "near_duplicate": 1,
    }
    kept = plan.encoder.encode(["twice", near, "new"])
    assert documents_of(corpus, "train") == kept
    assert corpus.manifest.clean["near_duplicates"] == {"ngrams": 5, "buckets": 14, "hashes": 8}


def test_the_same_words_about_two_patients_are_two_documents(tmp_path, told):
    records = [{"text": "Normal ECG.", "meta": {"split_key": f"mimic_iii/{patient}"}} for patient in (7, 8, 7, 9)]
    write_pile(tmp_path / "a.jsonl", [*records[:2], {"text": "Normal ECG."}])
    write_pile(tmp_path / "b.jsonl", [*records[2:], {"text": "Normal ECG."}])
    plan = plan_of(tmp_path, validation=0, clean={"exact_duplicates": "drop"})

    corpus = complete(plan, make_parts(plan))

    assert corpus.manifest.counts.documents == {"train": 4, "validation": 0}  # of 7, 8, 9 and nobody
    assert corpus.manifest.counts.dropped == {"duplicate": 2}


def test_licences_of_what_stays_are_counted(tmp_path, told):
    meta = [{"license": "CC BY"}, {"license": "CC0"}, {}, {"license": "CC BY"}, {"license": "NC", "identity": 1}]
    records = [{"text": f"text {n}", "meta": its} for n, its in enumerate(meta)]
    write_pile(tmp_path / "a.jsonl", [*records, {"deleted": [(1, 0)]}])
    plan = plan_of(tmp_path)

    counts = complete(plan, make_parts(plan)).manifest.counts

    assert counts.licenses == {"CC BY": 2, "CC0": 1, "MIT": 1}
    assert sum(counts.licenses.values()) == sum(counts.documents.values())


def test_what_a_pile_file_says_of_a_document_is_no_instruction(tmp_path):
    meta = {"drop": "no", "identity": "x", "version": [], "split_key": 3, "license": {}}
    write_pile(tmp_path / "a.jsonl", [{"text": "text", "meta": meta}])

    counts = complete(plan := plan_of(tmp_path, validation=0), make_parts(plan)).manifest.counts

    assert (counts.documents["train"], counts.dropped, counts.licenses) == (1, {}, {"MIT": 1})


def test_the_manifest_tells_how_the_corpus_was_made(tmp_path):
    write_pile(tmp_path / "a.jsonl", abstracts()[:20])
    plan = plan_of(tmp_path, clean={"min_characters": 5})

    corpus = complete(plan, make_parts(plan))

    assert corpus.manifest.split.validation == 0.3
    assert corpus.manifest.clean["min_characters"] == 5
    assert set(corpus.manifest.checksums()) == set(files_of(corpus.folder)) - {MANIFEST}
    tokenizer = Tokenizer.from_file(str(corpus.folder / TOKENIZER))
    decoded = {tokenizer.decode(ids) for split in ("train", "validation") for ids in documents_of(corpus, split)}
    assert decoded == set(abstracts()[:20])


@pytest.mark.slow
def test_many_small_files_become_few_shards_and_a_large_one_is_not_copied(tmp_path, monkeypatch):
    monkeypatch.setattr(merge, "SHARD_TOKENS", 20_000)
    write_pile(tmp_path / "000.jsonl", abstracts()[:100])
    for number in range(1, 101):
        write_pile(tmp_path / f"{number:03d}.jsonl", [abstracts()[number]])
    plan = plan_of(tmp_path, validation=0)
    parts = make_parts(plan)

    assert finalise(plan, parts, lambda: False)

    shards = read_manifest(plan.work).shards["train"]
    assert 4 < len(shards) < 9
    assert os.path.samefile(plan.work / shards[0].name, plan.parts / parts[0].shards["train"].name)
    assert sum(shard.documents for shard in shards) == 200


def test_a_file_system_without_hard_links_copies(tmp_path, monkeypatch):
    write_pile(tmp_path / "a.jsonl", abstracts()[:20])

    def refuse(source, target):
        raise PermissionError("no links here")

    monkeypatch.setattr(os, "link", refuse)

    complete(plan := plan_of(tmp_path), make_parts(plan))  # verifies the checksums


def test_parts_stay_usable_until_the_corpus_is_published(tmp_path):
    for number in range(3):
        write_pile(tmp_path / f"{number}.jsonl", abstracts()[number : number + 20])
    plan = plan_of(tmp_path, clean={"exact_duplicates": "drop"})
    parts = make_parts(plan)
    before = files_of(plan.parts)

    assert finalise(plan, parts, lambda: False)

    assert before.items() <= files_of(plan.parts).items()


def test_a_stop_keeps_the_shards_that_are_there(tmp_path, monkeypatch):
    monkeypatch.setattr(merge, "SHARD_TOKENS", 1)
    for number in range(5):
        write_pile(tmp_path / f"{number}.jsonl", abstracts()[number * 10 : number * 10 + 10])
    plan = plan_of(tmp_path, validation=0, resources={"cpus_per_task": 1, "time": "1h"})
    parts, looks = make_parts(plan), iter([False, False] + [True] * 9)

    assert not finalise(plan, parts, lambda: next(looks))

    made = {path: path.stat().st_mtime_ns for path in (plan.work / "train").iterdir()}
    assert 0 < len(made) < 10
    assert not (plan.work / MANIFEST).exists()
    assert finalise(plan, parts, lambda: False)
    assert made.items() <= {path: path.stat().st_mtime_ns for path in (plan.work / "train").iterdir()}.items()


def test_a_file_that_is_added_while_shards_are_merged_leaves_none_of_them_out(tmp_path, monkeypatch):
    monkeypatch.setattr(merge, "SHARD_TOKENS", 1)
    changes = {"validation": 0, "resources": {"cpus_per_task": 1, "time": "1h"}}
    for number in range(3):
        write_pile(tmp_path / f"{number}.jsonl", [f"document {number}"])
    plan, looks = plan_of(tmp_path, **changes), iter([False, False] + [True] * 9)
    assert not finalise(plan, make_parts(plan), lambda: next(looks))
    assert (plan.work / "train" / "00001.ds").exists()
    write_pile(tmp_path / "3.jsonl", ["document 3"])

    assert main(make_context(tmp_path, **changes), StopFlag()) == FINISHED

    corpus = open_corpus(plan.folder)
    assert documents_of(corpus, "train") == plan.encoder.encode([f"document {number}" for number in range(4)])


def test_shards_of_files_that_changed_meanwhile_are_made_again(tmp_path, monkeypatch):
    monkeypatch.setattr(merge, "SHARD_TOKENS", 1)
    for number in range(3):
        write_pile(tmp_path / f"{number}.jsonl", ["first words", "more"])
    plan = plan_of(tmp_path, validation=0)
    assert finalise(plan, make_parts(plan), lambda: False)
    (plan.work / MANIFEST).unlink()
    (plan.work / "train" / ".00001.ds.99").touch()
    for number in range(1, 3):
        write_pile(tmp_path / f"{number}.jsonl", [])

    corpus = complete(plan, make_parts(plan))

    assert documents_of(corpus, "train") == plan.encoder.encode(["first words", "more"])
    assert sorted(path.name for path in (corpus.folder / "train").iterdir()) == ["00000.ds", "00000.ds.index"]


def write_sources_with_copies(folder):
    texts = abstracts()
    for number in range(4):
        copies = [f"{text} Copyright {number}." for text in texts[:3]] + texts[10:12]
        write_pile(folder / f"{number}.jsonl", texts[20 + 5 * number : 24 + 5 * number] + copies)


@pytest.mark.slow
def test_killed_at_any_point_it_makes_the_same_bytes(tmp_path, monkeypatch):
    monkeypatch.setattr(merge, "SHARD_TOKENS", 8_000)
    write_sources_with_copies(tmp_path)
    clean = {"exact_duplicates": "drop", "near_duplicates": {"buckets": 4, "hashes": 3}}
    plan = plan_of(tmp_path, clean=clean, resources={"cpus_per_task": 2, "time": "1h"})
    parts = make_parts(plan)
    shutil.copytree(plan.work, tmp_path / "parts")
    expected = files_of(complete(plan, parts).folder)
    dropped = json.loads(expected[MANIFEST])["counts"]["dropped"]
    assert dropped["duplicate"] > 0
    assert dropped["near_duplicate"] > 0

    for point in range(1, 400, 4):
        shutil.rmtree(plan.folder)
        shutil.copytree(tmp_path / "parts", plan.work)
        killed = Killed(lambda: finalise(plan, parts, lambda: False), point)
        other = replace(plan, recipe=plan.recipe.model_copy(update={"tasks": 2}))
        assert files_of(complete(other, parts).folder) == expected
        if killed.came_to_its_end:
            break

    assert 40 < point < 399


def test_a_bad_file_is_forgiven_by_the_whole_corpus(tmp_path):
    write_source(tmp_path / "0.jsonl", b"bad\n" + b'{"text": "good"}\n' * 9)
    for number in range(1, 10):
        write_pile(tmp_path / f"{number}.jsonl", ["more words"] * 10)
    context = make_context(tmp_path, max_bad_fraction=0.02, validation=0)

    assert main(context, StopFlag()) == FINISHED


def test_as_many_bad_records_as_the_recipe_says_are_forgiven(tmp_path):
    write_source(tmp_path / "0.jsonl", b"bad\n" * 29 + b'{"text": "good"}\n' * 71)

    assert main(make_context(tmp_path, max_bad_fraction=0.29, validation=0), StopFlag()) == FINISHED


def test_hopeless_sources_fail_before_all_files_are_read(tmp_path, monkeypatch):
    write_source(tmp_path / "0.jsonl", b"bad\n" * 500)
    for number in range(1, 10):
        write_pile(tmp_path / f"{number}.jsonl", ["more words"] * 10)
    context = make_context(tmp_path, max_bad_fraction=0.02, validation=0, resources={"cpus_per_task": 1, "time": "1h"})

    with pytest.raises(LauncherError, match=r"500 of 500 records .* \(9 files are still to come\)"):
        main(context, StopFlag())


def test_a_source_without_a_finished_file_could_hold_any_number_of_records(tmp_path):
    write_source(tmp_path / "a.jsonl", b"bad\n" * 500)
    write_pile(tmp_path / "b.json", ["x"] * 30_000)
    sources = [{"format": "pile", "files": f"./{name}"} for name in ("a.jsonl", "b.json")]
    context = make_context(tmp_path, max_bad_fraction=0.02, validation=0, sources=sources)

    assert main(context, StopFlag()) == FINISHED


def citations(part):
    """Identities of a part's documents that stay."""
    return part.keys.identities[np.isin(part.keys.identified, part.keys.ordinals[part.stays])].tolist()


@pytest.mark.slow
def test_of_real_citations_the_newest_versions_stay_and_deleted_ones_go(tmp_path):
    for name in ("pubmed20n0014.slice-a.xml.gz", "pubmed21n1298.slice-a.xml.gz"):
        (tmp_path / name).symlink_to(shared_data(f"pubmed/medline/{name}"))
    update = "<PubmedArticleSet><DeleteCitation>{}</DeleteCitation></PubmedArticleSet>"
    pmids = "".join(f'<PMID Version="{version}">33728380</PMID>' for version in (1, 2))
    write_source(tmp_path / "pubmed21n1299.xml.gz", update.format(pmids).encode())
    plan = plan_of(tmp_path, sources=[{"format": "medline", "files": "./*.xml.gz"}])
    parts = make_parts(plan)
    keys = [load_keys(plan.keys(number)) for number in range(3)]
    versions = {pmid: keys[1].versions[keys[1].identities == pmid].tolist() for pmid in (30271887, 33728380)}
    assert versions == {30271887: [1, 2, 3, 4], 33728380: [1, 2]}
    assert len(keys[1].deleted) == 20

    stay = [identity for part in decide(keys, drops_duplicates=False) for identity in citations(part)]
    counts = complete(plan, parts).manifest.counts

    assert stay.count(30271887) == 1
    assert stay.count(33728380) == 0
    assert len(set(stay)) == len(stay) == sum(counts.documents.values())
    assert counts.dropped == {"other_language": 1215, "no_abstract": 1933, "deleted": 2, "superseded": 3}
