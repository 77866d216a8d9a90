"""Near duplicates: signatures, and who goes, against datatrove's own steps and against plain Jaccard similarity."""

import os
import random
from itertools import combinations

import numpy as np
import pytest
from datatrove.data import Document
from datatrove.io import get_datafolder
from datatrove.pipeline.dedup.minhash import MinhashConfig, MinhashDedupBuckets, MinhashDedupCluster
from datatrove.utils.text import ngrams, simplify_text
from hypothesis import given, settings
from hypothesis import strategies as st

from jobs.data.dedup import minhash as signatures
from jobs.data.dedup import near_duplicates as near
from jobs.data.dedup.decide import DUPLICATE, KEPT, DecidedFile
from jobs.data.dedup.document_keys import KeyRecorder, load_keys
from jobs.data.dedup.minhash import ShingleTokenizer, SignatureWriter, Signer, minhash_config, read_bucket
from jobs.data.dedup.near_duplicates import NearDuplicates
from jobs.data.readers.source_stream import SourceStream
from launcher.recipe.kinds.prepare import Minhash
from tests.support.prepare_runs import abstracts
from tests.support.stops import stopped_after

pytestmark = pytest.mark.slow


def write_part(folder, number, texts, minhash):
    """Sign texts and keep the keys, as the making of a part does."""
    keys, path = KeyRecorder("MIT"), folder / f"{number}.signatures"
    written = SignatureWriter(minhash, path, keys).run(
        keys.number(Document(text, str(i)) for i, text in enumerate(texts))
    )
    for document in written:
        keys.keep(document, "train", 0)
    keys.save(folder / f"{number}.npz", SourceStream(path))
    return path, load_keys(folder / f"{number}.npz")


def search(folder, parts, minhash=None, dropped=()):
    """Look for near duplicates in parts given as lists of texts; `dropped` documents are out already."""
    minhash = minhash or Minhash()
    made = [write_part(folder, number, texts, minhash) for number, texts in enumerate(parts)]
    places = iter(range(sum(map(len, parts))))
    decisions = [np.array([DUPLICATE if next(places) in dropped else KEPT for _ in texts], np.uint8) for texts in parts]
    decided = [DecidedFile(keys, its) for (_, keys), its in zip(made, decisions, strict=True)]
    (folder / "near").mkdir()
    return NearDuplicates(minhash_config(minhash), [path for path, _ in made], decided, folder / "near")


def later_ones(folder, parts, minhash=None, dropped=()):
    """Places of the documents that go."""
    found = search(folder, parts, minhash, dropped)
    for bucket in found.missing_buckets():
        found.search_bucket(bucket)
    return found.later_ones().tolist()


def clusters_of_datatrove(folder, parts, config):
    """Sets of near duplicates by datatrove's steps as they come."""
    for rank, texts in enumerate(parts):
        signer = Signer(config)
        signer.output_folder, signer.skip_existing_sigs = get_datafolder(str(folder / "sigs")), False
        signer.run((Document(text, str(i)) for i, text in enumerate(texts)), rank, len(parts))
    for bucket in range(config.num_buckets):
        buckets = MinhashDedupBuckets(str(folder / "sigs"), str(folder / "dups"), config=config)
        buckets.run(None, bucket, config.num_buckets)
    MinhashDedupCluster(str(folder / "dups"), str(folder / "out"), config=config, save_cluster_id=True).run()
    clusters = {}
    starts = np.cumsum([0, *map(len, parts)]).tolist()
    for path in (folder / "out").glob("*.clusters"):
        for place, cluster in np.fromfile(path, "<u4").reshape(-1, 2).tolist():
            clusters.setdefault(cluster, set()).add(starts[int(path.stem)] + place)
    return list(clusters.values())


def with_near_copies(texts, seed=1):
    """Texts with copies between them in which some words are others."""
    chance = random.Random(seed)
    copies = []
    for text in texts:
        words, share = text.split(), chance.choice([0.005, 0.02, 0.1, 0.4])
        copies.append(" ".join("changed" if chance.random() < share else word for word in words))
    mixed = [*texts, *copies]
    chance.shuffle(mixed)
    return mixed


def jaccard(left, right):
    return len(left & right) / len(left | right)


def shingles(text, n=5):
    return set(ngrams(ShingleTokenizer().word_tokenize(simplify_text(text)), n))


def test_marks_on_a_letter_are_sorted_in_linear_time_and_make_no_difference():
    signer = Signer(MinhashConfig())
    text = "one two three four five six"

    assert np.array_equal(signer.sign(text + "\u0301\u0316" * 500_000), signer.sign(text))


def test_the_same_documents_go_as_with_datatroves_own_steps(tmp_path):
    texts = with_near_copies(abstracts()[:60])
    parts = [texts[:50], [], texts[50:57], ["too short"], texts[57:]]
    expected = clusters_of_datatrove(tmp_path, parts, MinhashConfig())
    (tmp_path / "ours").mkdir()

    gone = later_ones(tmp_path / "ours", parts)

    assert len(expected) > 20
    assert gone == sorted(place for cluster in expected for place in sorted(cluster)[1:])


def test_near_copies_are_found_and_other_abstracts_are_left_alone(tmp_path):
    texts = with_near_copies(abstracts()[:120])
    sets = [shingles(text) for text in texts]
    similar = {pair: jaccard(sets[pair[0]], sets[pair[1]]) for pair in combinations(range(len(texts)), 2)}

    gone = set(later_ones(tmp_path, [texts]))

    sure = [pair for pair, similarity in similar.items() if similarity > 0.9]
    partner = [
        max(similar[tuple(sorted((place, other)))] for other in range(len(texts)) if other != place) for place in gone
    ]
    assert len(sure) > 30
    assert sum(b in gone for _, b in sure) >= 0.98 * len(sure)  # found with 99.96 % by the theory
    assert min(partner) > 0.2
    assert sum(similarity > 0.6 for similarity in partner) >= 0.95 * len(partner)


def test_a_signature_is_datatroves_whatever_the_length_of_the_text(monkeypatch):
    monkeypatch.setattr(signatures, "_SHINGLES_AT_ONCE", 7)
    signer = Signer(MinhashConfig())
    for text in abstracts()[:5]:
        assert signer.sign(text).tolist() == signer.get_signature(signer.get_shingles(text))
    assert signer.sign("only four words here") is None


def test_only_the_beginning_of_a_very_long_text_is_compared(monkeypatch):
    monkeypatch.setattr(signatures, "_COMPARED_CHARACTERS", 200)
    text = abstracts()[0]

    assert np.array_equal(Signer(MinhashConfig()).sign(text), Signer(MinhashConfig()).sign(text[:200]))


def test_words_are_split_at_spaces_and_around_chinese_characters():
    assert ShingleTokenizer().word_tokenize("the 0 mg dose") == ["the", "0", "mg", "dose"]
    assert ShingleTokenizer().word_tokenize("naïve bayes") == ["naïve", "bayes"]
    assert ShingleTokenizer().word_tokenize("使用 aspirin治疗") == ["使", "用", "aspirin", "治", "疗"]


@pytest.mark.parametrize("count", [0, 1, 3, 4, 9])
def test_one_bucket_is_read_without_the_others(tmp_path, monkeypatch, count):
    monkeypatch.setattr(signatures, "_BLOCK", 4)
    config = MinhashConfig(num_buckets=3, hashes_per_bucket=2)
    texts = abstracts()[:count]
    path, keys = write_part(tmp_path, 0, ["short", *texts], Minhash(buckets=3, hashes=2))

    buckets = [
        [row for block in read_bucket(path, count, config, bucket) for row in block.tolist()] for bucket in range(3)
    ]

    expected = [Signer(config).sign(text) for text in texts]
    assert buckets == [[signature[bucket].tolist() for signature in expected] for bucket in range(3)]
    assert keys.signed.tolist() == list(range(1, count + 1))


family = st.integers(0, 3)


@settings(max_examples=25)
@given(parts=st.lists(st.lists(family, max_size=5), min_size=1, max_size=4), data=st.data())
def test_each_family_keeps_its_first_member_that_no_other_rule_dropped(tmp_path_factory, parts, data):
    texts = abstracts()
    flat = [member for part in parts for member in part]
    dropped = data.draw(st.sets(st.integers(0, len(flat)), max_size=len(flat)))
    copies = [[f"{texts[member]} Appendix {place}." for place, member in enumerate(part)] for part in parts]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(near, "_CHUNK", data.draw(st.integers(5, 64)))

        gone = later_ones(tmp_path_factory.mktemp("near"), copies, Minhash(buckets=20, hashes=2), dropped)

    stay = [place for place in range(len(flat)) if place not in dropped]
    assert gone == [place for n, place in enumerate(stay) if flat[place] in {flat[earlier] for earlier in stay[:n]}]


def test_a_search_that_was_stopped_goes_on_with_the_buckets_it_has_not_searched(tmp_path):
    texts = with_near_copies(abstracts()[:20])
    found = search(tmp_path, [texts])

    with stopped_after(3):
        found.run(1)
    left = found.missing_buckets()
    assert 0 < len(left) < 14
    places = found.run(2)

    assert found.missing_buckets() == []
    (tmp_path / "again").mkdir()
    assert places.tolist() == later_ones(tmp_path / "again", [texts])
    assert {path.suffix for path in (tmp_path / "near").iterdir()} == {".dups"}


def test_what_a_bucket_found_is_on_disk_before_it_has_its_name(tmp_path, monkeypatch):
    found, synced = search(tmp_path, [["one two three four five six"] * 2]), []
    monkeypatch.setattr("jobs.rank.atomic_files.os.fsync", lambda handle: synced.append(os.fstat(handle).st_ino))

    found.search_bucket(0)

    [pairs] = found.folder.glob("*.dups")
    assert pairs.stat().st_size
    assert pairs.stat().st_ino in synced
