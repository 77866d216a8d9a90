"""kind: prepare, from source files to a published corpus."""

import hashlib
import json
import os
import re
import subprocess
import sys
import unicodedata

import pytest
import zstandard
from transformers import AutoTokenizer

from jobs.kinds.prepare import main
from jobs.models.tokenizer import load_encoder
from jobs.rank.ranks import Ranks
from launcher.artifacts.corpus_manifest import MANIFEST
from launcher.errors import LauncherError
from tests.support.corpora import flaws_of
from tests.support.prepare_runs import (
    ABSTRACTS,
    ASSETS,
    abstracts,
    documents_of,
    files_of,
    make_context,
    make_tokenizer,
    prepare,
    write_pile,
)
from tests.support.shared_data import shared_data

pytestmark = pytest.mark.slow


def test_shards_equal_those_of_a_plain_program(tmp_path):
    corpus = prepare(
        tmp_path, sources=[{"format": "pile", "files": f"../{os.path.relpath(ABSTRACTS, tmp_path.parent)}"}]
    )
    tokenizer = AutoTokenizer.from_pretrained(ASSETS / "stories260k")
    expected = [[*tokenizer(text)["input_ids"], tokenizer.eos_token_id] for text in abstracts()]

    train, validation = documents_of(corpus, "train"), documents_of(corpus, "validation")

    assert sorted(train + validation) == sorted(expected)
    assert train == [ids for ids in expected if ids in train]
    assert 25 < len(validation) < 75
    assert all(ids[0] == tokenizer.bos_token_id and ids[-1] == tokenizer.eos_token_id for ids in train)
    assert tokenizer.decode(train[0], skip_special_tokens=True) in abstracts()
    counts = corpus.manifest.counts
    assert counts.records == 500
    assert counts.documents == {"train": len(train), "validation": len(validation)}
    assert counts.tokens == {"train": sum(map(len, train)), "validation": sum(map(len, validation))}
    assert flaws_of(corpus.folder) == []


def test_compression_changes_nothing(tmp_path):
    made = {}
    for suffix in ("jsonl", "jsonl.gz", "jsonl.zst"):
        folder = tmp_path / suffix
        folder.mkdir()
        write_pile(folder / f"a.{suffix}", abstracts()[:50])
        files = files_of(prepare(folder).folder)
        made[suffix] = {name: content for name, content in files.items() if name != MANIFEST}

    assert len(made["jsonl"]) == 5
    assert made["jsonl"] == made["jsonl.gz"] == made["jsonl.zst"]


def test_the_manifest_says_what_the_corpus_is_made_of(tmp_path):
    path = write_pile(tmp_path / "a.jsonl", abstracts()[:50])
    manifest = prepare(tmp_path).manifest

    (source,) = manifest.sources
    assert (source.path, source.license, source.size) == (str(path), "MIT", path.stat().st_size)
    assert source.sha256 == subprocess.check_output(["sha256sum", path], text=True).split()[0]
    assert (manifest.tokenizer.prefix, manifest.tokenizer.eos, manifest.tokenizer.vocab_size) == ((1,), 2, 512)
    assert manifest.dtype == "uint16"
    assert manifest.data_use == "open"
    assert manifest.code == "0.1.0 hash"


def test_short_documents_and_other_subsets_are_dropped_and_counted(tmp_path):
    records = [
        {"text": "kept", "meta": {"pile_set_name": "PubMed Abstracts"}},
        {"text": "no", "meta": {"pile_set_name": "PubMed Abstracts"}},
        {"text": "other", "meta": {"pile_set_name": "Github"}},
        {"text": "none"},
        {"text": "strange", "meta": ["PubMed Abstracts"]},
    ]
    write_pile(tmp_path / "a.jsonl", records)
    source = {"format": "pile", "files": "./a.jsonl", "subsets": ["PubMed Abstracts"]}

    counts = prepare(tmp_path, sources=[source], clean={"min_characters": 3}, validation=0).manifest.counts

    assert counts.documents == {"train": 1, "validation": 0}
    assert counts.dropped == {"other_subset": 3, "too_short": 1}


def test_the_split_depends_on_the_text_alone(tmp_path):
    texts = abstracts()[:200]
    one, other = tmp_path / "one", tmp_path / "other"
    one.mkdir()
    other.mkdir()
    write_pile(one / "a.jsonl", texts)
    write_pile(other / "a.jsonl.gz", texts[120:])
    write_pile(other / "b.jsonl.zst", texts[119::-1])

    first, second = prepare(one), prepare(other)

    assert sorted(documents_of(first, "validation")) == sorted(documents_of(second, "validation"))
    assert sorted(documents_of(first, "train")) == sorted(documents_of(second, "train"))


def test_the_split_is_the_one_that_the_manifest_states(tmp_path):
    texts = abstracts()[:100]
    write_pile(tmp_path / "a.jsonl", texts)

    corpus = prepare(tmp_path, validation=0.3)

    rule = corpus.manifest.split.rule
    assert rule.startswith("BLAKE2b with a digest of 8 bytes, read as a big-endian number, of the document's text")
    digests = {text: hashlib.blake2b(text.encode("utf-8"), digest_size=8).digest() for text in texts}
    expected = [text for text in texts if int.from_bytes(digests[text], "big") < 0.3 * 2**64]
    tokenizer = load_encoder(str(ASSETS / "stories260k"), "stories260k")
    assert documents_of(corpus, "validation") == tokenizer.encode(expected)


@pytest.mark.parametrize(("validation", "expected"), [(0, (20, 0)), (0.9999, (0, 20))])
def test_a_split_may_be_empty_but_for_training(tmp_path, validation, expected):
    write_pile(tmp_path / "a.jsonl", abstracts()[:20])

    if expected[0]:
        corpus = prepare(tmp_path, validation=validation)
        assert tuple(corpus.manifest.counts.documents.values()) == expected
        assert not (corpus.folder / "validation").exists() or not list((corpus.folder / "validation").iterdir())
    else:
        with pytest.raises(LauncherError, match="no document is left for training"):
            prepare(tmp_path, validation=validation)


def test_wide_vocabularies_get_wide_ids_and_no_bos_where_the_tokenizer_has_none(tmp_path):
    make_tokenizer(tmp_path / "tokenizer", size=70_000)
    write_pile(tmp_path / "a.jsonl", ["w1 w69000", "w5"])

    corpus = prepare(tmp_path, tokenizer="./tokenizer", validation=0)

    assert corpus.manifest.dtype == "uint32"
    assert documents_of(corpus, "train") == [[1, 69_000, 69_999], [5, 69_999]]


def test_ids_beyond_the_number_of_words_fit(tmp_path):
    make_tokenizer(tmp_path / "tokenizer")
    path = tmp_path / "tokenizer" / "tokenizer.json"
    path.write_text(path.read_text().replace('"w7": 7', '"w7": 70000').replace('"w7":7', '"w7":70000'))
    write_pile(tmp_path / "a.jsonl", ["w7 w8"])

    corpus = prepare(tmp_path, tokenizer="./tokenizer", validation=0)

    assert corpus.manifest.tokenizer.vocab_size == 70_001
    assert documents_of(corpus, "train")[0][:2] == [70_000, 8]


def test_the_largest_vocabulary_of_narrow_ids(tmp_path):
    make_tokenizer(tmp_path / "tokenizer", size=65_536)
    write_pile(tmp_path / "a.jsonl", ["w1"])

    corpus = prepare(tmp_path, tokenizer="./tokenizer", validation=0)

    assert corpus.manifest.dtype == "uint16"
    assert documents_of(corpus, "train") == [[1, 65_535]]


def test_eos_is_not_doubled_and_its_name_in_the_text_is_text(tmp_path):
    make_tokenizer(tmp_path / "tokenizer", template="$A <|end|>")
    write_pile(tmp_path / "a.jsonl", ["w1 <|end|> w2", "", "w3"])

    corpus = prepare(tmp_path, tokenizer="./tokenizer", validation=0, clean={"min_characters": 0})

    assert documents_of(corpus, "train") == [[1, 0, 2, 299], [3, 299]]


def test_a_tokenizer_that_cannot_end_a_document_is_refused(tmp_path):
    make_tokenizer(tmp_path / "tokenizer")
    (tmp_path / "tokenizer" / "tokenizer_config.json").write_text('{"tokenizer_class": "PreTrainedTokenizerFast"}')
    write_pile(tmp_path / "a.jsonl", ["w1"])

    with pytest.raises(LauncherError, match=r"`\./tokenizer` has no end-of-sequence token, .*; set `eos_token`"):
        prepare(tmp_path, tokenizer="./tokenizer")


def test_a_tokenizer_that_is_not_there_is_named(tmp_path):
    write_pile(tmp_path / "a.jsonl", ["text"])

    with pytest.raises(LauncherError, match=r"tokenizer `\./nowhere`: .*there is no such folder; check the name"):
        prepare(tmp_path, tokenizer="./nowhere")


def test_several_tasks_are_refused(tmp_path):
    write_pile(tmp_path / "a.jsonl", ["text"])
    context = make_context(tmp_path)
    object.__setattr__(context, "ranks", Ranks(1, 2, 0, 1, 1))

    with pytest.raises(LauncherError, match="write `nodes: 1` and `gpus_per_node: 0`"):
        main(context)


def test_any_number_of_workers_makes_the_same_bytes(tmp_path):
    made = []
    for workers in (1, 3):
        folder = tmp_path / str(workers) / "x"
        folder.mkdir(parents=True)
        for number in range(5):
            write_pile(folder / f"{number}.jsonl", abstracts()[number::5])
        corpus = prepare(folder, resources={"cpus_per_task": workers, "time": "1h"})
        made.append({name: content for name, content in files_of(corpus.folder).items() if name != MANIFEST})

    assert len(made[0]) == 5  # two shards with their indices, and the tokenizer
    assert made[0] == made[1]


def test_articles_of_the_pile_are_prepared_whole(tmp_path):
    path = shared_data("pubmed/pile/pubmed_central.jsonl.zst")
    with zstandard.open(path, "rt", encoding="utf-8") as file:
        texts = [unicodedata.normalize("NFC", json.loads(line)["text"]) for line in file]
    source = {"format": "pile", "files": "./*.zst", "subsets": ["PubMed Central"], "license": "CC BY"}
    clean = {"normalise": "nfc", "min_characters": 1000, "languages": ["en"], "exact_duplicates": "drop"}
    (tmp_path / path.name).symlink_to(path)

    corpus = prepare(tmp_path, sources=[source], clean=clean | {"near_duplicates": {}}, validation=0)

    counts, encoder = corpus.manifest.counts, load_encoder(str(ASSETS / "stories260k"), "stories260k")
    assert (counts.records, counts.bad_records, counts.dropped, counts.licenses) == (50, 0, {}, {"CC BY": 50})
    assert (len(texts), sum(map(len, texts))) == (50, 2_171_121)
    written = documents_of(corpus, "train")
    assert written == encoder.encode(texts)
    assert min(map(len, written)) > 4 * 2048  # what the source system cut them to


_PEAKS = """\
import resource, sys
from pathlib import Path
from jobs.data.corpus.source_file import process_file
from jobs.data.corpus.file_list import corpus_file_list
from tests.support.prepare_runs import make_context

def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024

plan = corpus_file_list(make_context(Path(sys.argv[1])))
process_file(plan, 0)
before = peak()
part = process_file(plan, 1)
print(sum(part.tally.documents.values()), part.tally.dropped, peak() - before)
"""


def test_one_enormous_document_takes_little_memory(tmp_path):
    text = "\n".join(abstracts())
    write_pile(tmp_path / "0.jsonl", abstracts())
    write_pile(tmp_path / "1.jsonl", ["one", text * 20, "two"])
    assert len(text) * 20 > 16_000_000

    done = subprocess.run([sys.executable, "-c", _PEAKS, str(tmp_path)], capture_output=True, text=True, check=True)

    documents, dropped, mebibytes = re.match(r"(\d+) (\{.*\}) (\d+)$", done.stdout.splitlines()[-1]).groups()
    assert (documents, dropped) == ("2", "{'too_long': 1}")
    assert int(mebibytes) < 300  # tokenised it would take 1,700
