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

from jobs.data import readers
from jobs.data.corpus import merge_shards as merge
from jobs.data.corpus.file_list import corpus_file_list
from jobs.data.corpus.finalise import finalise
from jobs.data.corpus.shard_writer import split_of, text_hash
from jobs.data.corpus.source_file import process_file
from jobs.data.dedup.decide import decide
from jobs.data.dedup.document_keys import load_keys
from jobs.data.sampling.corpus_reader import open_corpus
from jobs.kinds.prepare import main, publish
from launcher.artifacts.corpus_manifest import MANIFEST, TOKENIZER, read_manifest
from launcher.errors import LauncherError
from tests.support.corpora import flaws_of
from tests.support.dedup_reference import decisions_by_hand, files
from tests.support.kill_at_point import Killed
from tests.support.prepare_runs import Group, abstracts, documents_of, files_of, make_context, write_pile, write_source
from tests.support.shared_data import shared_data
from tests.support.stops import stopped_after

some = settings(max_examples=30)


@pytest.fixture
def told(monkeypatch):
    """Let files say of their documents what a reader would say."""
    monkeypatch.setitem(readers._READERS, "pile", read_told)


def read_told(stream, source):
    for number, line in stream.lines():
        fields = json.loads(line)
        for identity, version in fields.get("deleted", ()):
            stream.withdraw(identity, version)
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
    return corpus_file_list(make_context(folder, **{"validation": 0.3} | changes))


def process_files(file_list):
    return [process_file(file_list, number) for number in range(len(file_list.sources))]


def complete(file_list, parts):
    finalise(file_list, parts)
    publish(file_list)
    corpus = open_corpus(file_list.folder)
    assert flaws_of(corpus.folder) == []
    return corpus


def documents_by_file(files, file_list, drops_duplicates):
    """Token ids of what stays in each split of each file, by the rules in plain Python."""
    for file, decisions in zip(files, decisions_by_hand(files, drops_duplicates), strict=True):
        expected = {"train": [], "validation": []}
        written = [doc for doc in file.docs if doc.is_written]
        for doc, decision in zip(written, decisions, strict=True):
            text = text_of(doc.text)
            if decision is None:
                split = split_of(text_hash(text), file_list.recipe.validation)
                expected[split] += file_list.encoder.encode([text])
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
    by_file = list(documents_by_file(files, corpus_file_list(group.last), drops))
    expected = {split: [ids for its in by_file for ids in its[split]] for split in ("train", "validation")}
    shares = order.sample(range(tasks), order.randint(0, tasks))  # the last run makes what is missing
    for index in shares:
        main(group.share(index))
    if not expected["train"]:
        with pytest.raises(LauncherError, match="no document is left for training"):
            main(group.last)
        return

    main(group.last)

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
    file_list = plan_of(tmp_path, validation=0, clean=clean)

    corpus = complete(file_list, process_files(file_list))

    assert corpus.manifest.counts.dropped == {
        "other_language": 1,
        "deleted": 1,
        "superseded": 1,
        "duplicate": 1,
        "near_duplicate": 1,
    }
    kept = file_list.encoder.encode(["twice", near, "new"])
    assert documents_of(corpus, "train") == kept
    assert corpus.manifest.clean["near_duplicates"] == {"ngrams": 5, "buckets": 14, "hashes": 8}


def test_the_same_words_about_two_patients_are_two_documents(tmp_path, told):
    records = [{"text": "Normal ECG.", "meta": {"split_key": f"mimic_iii/{patient}"}} for patient in (7, 8, 7, 9)]
    write_pile(tmp_path / "a.jsonl", [*records[:2], {"text": "Normal ECG."}])
    write_pile(tmp_path / "b.jsonl", [*records[2:], {"text": "Normal ECG."}])
    file_list = plan_of(tmp_path, validation=0, clean={"exact_duplicates": "drop"})

    corpus = complete(file_list, process_files(file_list))

    assert corpus.manifest.counts.documents == {"train": 4, "validation": 0}  # of 7, 8, 9 and nobody
    assert corpus.manifest.counts.dropped == {"duplicate": 2}


def test_licences_of_what_stays_are_counted(tmp_path, told):
    meta = [{"license": "CC BY"}, {"license": "CC0"}, {}, {"license": "CC BY"}, {"license": "NC", "identity": 1}]
    records = [{"text": f"text {n}", "meta": its} for n, its in enumerate(meta)]
    write_pile(tmp_path / "a.jsonl", [*records, {"deleted": [(1, 0)]}])
    file_list = plan_of(tmp_path)

    counts = complete(file_list, process_files(file_list)).manifest.counts

    assert counts.licenses == {"CC BY": 2, "CC0": 1, "MIT": 1}
    assert sum(counts.licenses.values()) == sum(counts.documents.values())


def test_what_a_pile_file_says_of_a_document_is_no_instruction(tmp_path):
    meta = {"drop": "no", "identity": "x", "version": [], "split_key": 3, "license": {}}
    write_pile(tmp_path / "a.jsonl", [{"text": "text", "meta": meta}])

    counts = complete(file_list := plan_of(tmp_path, validation=0), process_files(file_list)).manifest.counts

    assert (counts.documents["train"], counts.dropped, counts.licenses) == (1, {}, {"MIT": 1})


def test_the_manifest_tells_how_the_corpus_was_made(tmp_path):
    write_pile(tmp_path / "a.jsonl", abstracts()[:20])
    file_list = plan_of(tmp_path, clean={"min_characters": 5})

    corpus = complete(file_list, process_files(file_list))

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
    file_list = plan_of(tmp_path, validation=0)
    parts = process_files(file_list)

    finalise(file_list, parts)

    shards = read_manifest(file_list.work).shards["train"]
    assert 4 < len(shards) < 9
    assert os.path.samefile(file_list.work / shards[0].name, file_list.parts / parts[0].shards["train"].name)
    assert sum(shard.documents for shard in shards) == 200


def test_a_file_system_without_hard_links_copies(tmp_path, monkeypatch):
    write_pile(tmp_path / "a.jsonl", abstracts()[:20])

    def refuse(source, target):
        raise PermissionError("no links here")

    monkeypatch.setattr(os, "link", refuse)

    complete(file_list := plan_of(tmp_path), process_files(file_list))  # verifies the checksums


def test_parts_stay_usable_until_the_corpus_is_published(tmp_path):
    for number in range(3):
        write_pile(tmp_path / f"{number}.jsonl", abstracts()[number : number + 20])
    file_list = plan_of(tmp_path, clean={"exact_duplicates": "drop"})
    parts = process_files(file_list)
    before = files_of(file_list.parts)

    finalise(file_list, parts)

    assert before.items() <= files_of(file_list.parts).items()


def test_a_stop_keeps_the_shards_that_are_there(tmp_path, monkeypatch):
    monkeypatch.setattr(merge, "SHARD_TOKENS", 1)
    for number in range(5):
        write_pile(tmp_path / f"{number}.jsonl", abstracts()[number * 10 : number * 10 + 10])
    file_list = plan_of(tmp_path, validation=0, resources={"cpus_per_task": 1, "time": "1h"})
    parts = process_files(file_list)

    with stopped_after(2):
        finalise(file_list, parts)

    made = {path: path.stat().st_mtime_ns for path in (file_list.work / "train").iterdir()}
    assert 0 < len(made) < 10
    assert not (file_list.work / MANIFEST).exists()
    finalise(file_list, parts)
    assert made.items() <= {path: path.stat().st_mtime_ns for path in (file_list.work / "train").iterdir()}.items()


def test_a_file_that_is_added_while_shards_are_merged_leaves_none_of_them_out(tmp_path, monkeypatch):
    monkeypatch.setattr(merge, "SHARD_TOKENS", 1)
    changes = {"validation": 0, "resources": {"cpus_per_task": 1, "time": "1h"}}
    for number in range(3):
        write_pile(tmp_path / f"{number}.jsonl", [f"document {number}"])
    file_list = plan_of(tmp_path, **changes)
    with stopped_after(2):
        finalise(file_list, process_files(file_list))
    assert (file_list.work / "train" / "00001.ds").exists()
    write_pile(tmp_path / "3.jsonl", ["document 3"])

    main(make_context(tmp_path, **changes))

    corpus = open_corpus(file_list.folder)
    assert documents_of(corpus, "train") == file_list.encoder.encode([f"document {number}" for number in range(4)])


def test_shards_of_files_that_changed_meanwhile_are_made_again(tmp_path, monkeypatch):
    monkeypatch.setattr(merge, "SHARD_TOKENS", 1)
    for number in range(3):
        write_pile(tmp_path / f"{number}.jsonl", ["first words", "more"])
    file_list = plan_of(tmp_path, validation=0)
    finalise(file_list, process_files(file_list))
    (file_list.work / MANIFEST).unlink()
    (file_list.work / "train" / ".00001.ds.99").touch()
    for number in range(1, 3):
        write_pile(tmp_path / f"{number}.jsonl", [])

    corpus = complete(file_list, process_files(file_list))

    assert documents_of(corpus, "train") == file_list.encoder.encode(["first words", "more"])
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
    file_list = plan_of(tmp_path, clean=clean, resources={"cpus_per_task": 2, "time": "1h"})
    parts = process_files(file_list)
    shutil.copytree(file_list.work, tmp_path / "parts")
    expected = files_of(complete(file_list, parts).folder)
    dropped = json.loads(expected[MANIFEST])["counts"]["dropped"]
    assert dropped["duplicate"] > 0
    assert dropped["near_duplicate"] > 0

    for point in range(1, 400, 4):
        shutil.rmtree(file_list.folder)
        shutil.copytree(tmp_path / "parts", file_list.work)
        killed = Killed(lambda: finalise(file_list, parts), point)
        other = replace(file_list, recipe=file_list.recipe.model_copy(update={"tasks": 2}))
        assert files_of(complete(other, parts).folder) == expected
        if killed.came_to_its_end:
            break

    assert 40 < point < 399


def test_a_bad_file_is_forgiven_by_the_whole_corpus(tmp_path):
    write_source(tmp_path / "0.jsonl", b"bad\n" + b'{"text": "good"}\n' * 9)
    for number in range(1, 10):
        write_pile(tmp_path / f"{number}.jsonl", ["more words"] * 10)
    context = make_context(tmp_path, max_bad_fraction=0.02, validation=0)

    main(context)


def test_as_many_bad_records_as_the_recipe_says_are_forgiven(tmp_path):
    write_source(tmp_path / "0.jsonl", b"bad\n" * 29 + b'{"text": "good"}\n' * 71)

    main(make_context(tmp_path, max_bad_fraction=0.29, validation=0))


def test_hopeless_sources_fail_before_all_files_are_read(tmp_path, monkeypatch):
    write_source(tmp_path / "0.jsonl", b"bad\n" * 500)
    for number in range(1, 10):
        write_pile(tmp_path / f"{number}.jsonl", ["more words"] * 10)
    context = make_context(tmp_path, max_bad_fraction=0.02, validation=0, resources={"cpus_per_task": 1, "time": "1h"})

    with pytest.raises(LauncherError, match=r"500 of 500 records .* \(9 files are still to come\)"):
        main(context)


def test_a_source_without_a_finished_file_could_hold_any_number_of_records(tmp_path):
    write_source(tmp_path / "a.jsonl", b"bad\n" * 500)
    write_pile(tmp_path / "b.json", ["x"] * 30_000)
    sources = [{"format": "pile", "files": f"./{name}"} for name in ("a.jsonl", "b.json")]
    context = make_context(tmp_path, max_bad_fraction=0.02, validation=0, sources=sources)

    main(context)


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
    file_list = plan_of(tmp_path, sources=[{"format": "medline", "files": "./*.xml.gz"}])
    parts = process_files(file_list)
    keys = [load_keys(file_list.keys(number)) for number in range(3)]
    versions = {pmid: keys[1].versions[keys[1].identities == pmid].tolist() for pmid in (30271887, 33728380)}
    assert versions == {30271887: [1, 2, 3, 4], 33728380: [1, 2]}
    assert len(keys[1].deleted) == 20

    stay = [identity for part in decide(keys, drops_duplicates=False) for identity in citations(part)]
    counts = complete(file_list, parts).manifest.counts

    assert stay.count(30271887) == 1
    assert stay.count(33728380) == 0
    assert len(set(stay)) == len(stay) == sum(counts.documents.values())
    assert counts.dropped == {"other_language": 1215, "no_abstract": 1933, "deleted": 2, "superseded": 3}
