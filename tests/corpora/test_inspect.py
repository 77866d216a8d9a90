"""Looking into prepared corpora: lengths, damage, samples, differences."""

import hashlib
import json
import os

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from jobs.data.sampling.sequences import cut
from launcher.artifacts.corpus_manifest import MANIFEST, TOKENIZER, EvaluationSet, SourceFile, read_manifest
from launcher.corpora.difference import compare
from launcher.corpora.find import find_corpus, is_path, open_published
from launcher.corpora.lengths import Lengths, count_lengths, packings
from launcher.corpora.sample import draw
from launcher.corpora.verify import Flaw, check_contents, check_sizes
from launcher.errors import LauncherError
from tests.support.corpora import flaws_of, make_corpus

DOCUMENTS = [[[5, 6, 7, 2], [8, 2]], [[9] * 5 + [2], [10, 2], [11, 12, 2]]]
EOS, BOS = 2, 1


def publish(folder, shards=DOCUMENTS, dtype="uint16", **changes):
    """A corpus of `shards`, with facts of its manifest changed."""
    make_corpus(folder, shards, dtype)
    return change_manifest(folder, **changes)


def change_manifest(folder, **changes):
    manifest = read_manifest(folder).model_copy(update=changes)
    (folder / MANIFEST).write_text(manifest.model_dump_json())
    return open_published(folder)


def with_tokenizer(folder, tokenizer, prefix=()):
    """Put a tokenizer into a corpus."""
    content = tokenizer.to_str().encode()
    (folder / TOKENIZER).write_bytes(content)
    record = read_manifest(folder).tokenizer.model_copy(
        update={"fingerprint": hashlib.sha256(content).hexdigest(), "prefix": prefix}
    )
    return change_manifest(folder, tokenizer=record)


def word_tokenizer():
    """Id 7 is `w7`."""
    tokenizer = Tokenizer(models.WordLevel({f"w{i}": i for i in range(512)}, unk_token="w0"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return tokenizer


def byte_tokenizer():
    """Id 3 + n is byte n, as a tokenizer falls back to for a character it does not have."""
    tokenizer = Tokenizer(models.BPE({f"<0x{n:02X}>": n + 3 for n in range(256)}, [], byte_fallback=True))
    tokenizer.decoder = decoders.Sequence([decoders.ByteFallback(), decoders.Fuse()])
    return tokenizer


def rewrite(path, numbers, dtype):
    path.write_bytes(np.asarray(numbers, dtype).tobytes())


def test_a_name_is_looked_up_below_the_root_of_corpora(tmp_path, make_cluster):
    publish(tmp_path / "corpora" / "abstracts")

    assert find_corpus(make_cluster(), "abstracts") == tmp_path / "corpora" / "abstracts"


def test_a_folder_with_a_manifest_is_a_path_and_so_is_what_has_a_slash(tmp_path, monkeypatch):
    publish(tmp_path / "abstracts")
    monkeypatch.chdir(tmp_path)

    assert is_path("abstracts")
    assert is_path("./articles")
    assert not is_path("articles")


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("abstract", "did you mean `abstracts`?"),
        ("zzz", "there are `abstracts`, `notes`; or write a path"),
        ("articles", "is not complete yet; `launcher status` shows how far the run that makes it is"),
    ],
)
def test_an_unknown_name_is_answered_with_those_that_there_are(tmp_path, make_cluster, name, hint):
    for known in ("abstracts", "notes"):
        publish(tmp_path / "corpora" / known)
    (tmp_path / "corpora" / "articles.partial").mkdir()

    with pytest.raises(LauncherError) as caught:
        find_corpus(make_cluster(), name)

    assert str(caught.value).endswith(hint)


def test_a_site_without_corpora_is_told_how_to_make_one(make_cluster):
    with pytest.raises(LauncherError, match="submit the `prepare` recipe that makes it"):
        find_corpus(make_cluster(), "abstracts")


def test_a_corpus_that_is_not_for_this_user_is_refused_in_a_line(tmp_path):
    folder = tmp_path / "mimic"
    publish(folder)
    folder.chmod(0o000 if os.geteuid() else 0o700)
    is_root = os.geteuid() == 0

    try:
        if is_root:
            os.seteuid(65534)
        with pytest.raises(LauncherError, match="permission denied; ask the owner"):
            open_published(folder)
    finally:
        if is_root:
            os.seteuid(0)
        folder.chmod(0o700)


def test_a_file_is_not_a_corpus(tmp_path):
    (tmp_path / "a.jsonl").touch()

    with pytest.raises(LauncherError, match="is a file; write the folder of a corpus"):
        open_published(tmp_path / "a.jsonl")


def test_documents_are_counted_by_length_over_all_shards(tmp_path):
    lengths = count_lengths(publish(tmp_path / "corpus"), "train")

    assert lengths.counts == {2: 2, 3: 1, 4: 1, 6: 1}
    assert (lengths.documents, lengths.tokens, lengths.longest, lengths.mean) == (5, 17, 6, 3.4)
    assert (lengths.quantile(0.5), lengths.quantile(0.9), lengths.quantile(1)) == (3, 6, 6)
    assert count_lengths(open_published(tmp_path / "corpus"), "validation").counts == {}


def test_a_split_without_documents_has_no_lengths():
    empty = Lengths({})

    assert (empty.mean, empty.quantile(0.5), empty.longest) == (0.0, 0, 0)
    assert all(one.sequences == one.lost == one.padding == 0 for one in packings(empty, 8).values())


def test_an_index_longer_than_what_is_read_at_once_is_counted_whole(tmp_path, monkeypatch):
    monkeypatch.setattr("launcher.corpora.lengths._ENDS_AT_ONCE", 2)
    corpus = publish(tmp_path / "corpus", [[[3] * n for n in range(1, 8)]])

    assert count_lengths(corpus, "train").counts == dict.fromkeys(range(1, 8), 1)


@settings(max_examples=30)
@given(
    lengths=st.lists(st.integers(1, 40), min_size=1, max_size=30),
    shards=st.integers(1, 3),
    sequence_length=st.integers(1, 50),
)
def test_sequences_are_as_many_as_training_reads_and_nothing_else_is_lost(
    tmp_path_factory, lengths, shards, sequence_length
):
    documents = [[3] * (length - 1) + [EOS] for length in lengths]
    made = make_corpus(
        tmp_path_factory.mktemp("corpus"), [documents[i::shards] for i in range(shards) if documents[i:]]
    )
    told = packings(count_lengths(open_published(made.folder), "train"), sequence_length)

    for name, packing in told.items():
        [pieces] = cut([made], name, "train", sequence_length)
        read = sum(len(pieces.read(index)[0]) for index in range(len(pieces)))
        assert packing.sequences == len(pieces)
        assert packing.lost == pytest.approx(1 - read / sum(lengths))
        if name != "packed":
            assert packing.padding == pytest.approx(1 - read / (len(pieces) * sequence_length))


@pytest.mark.parametrize("dtype", ["uint16", "uint32"])
def test_a_sound_corpus_has_no_flaw(tmp_path, dtype):
    assert flaws_of(publish(tmp_path / "corpus", dtype=dtype).folder) == []


def test_all_bytes_of_a_corpus_are_told_when_it_has_been_read(tmp_path):
    corpus, told = publish(tmp_path / "corpus"), []

    check_contents(corpus, corpus.manifest.all_shards, told.append)

    assert (
        told[-1]
        == sum(corpus.manifest.sizes().values())
        == sum((corpus.folder / name).stat().st_size for name in corpus.manifest.sizes())
    )


def test_everything_that_is_wrong_is_named(tmp_path):
    corpus = publish(tmp_path / "corpus", [*DOCUMENTS, [[3, 2]]])
    (corpus.folder / "train" / "00000.ds").unlink()
    (corpus.folder / "train" / "00001.ds.index").write_bytes(bytes(8))
    rewrite(corpus.folder / "train" / "00002.ds", [4, 2], "<u2")
    (corpus.folder / TOKENIZER).write_text("{ }")

    flaws = flaws_of(corpus.folder)

    assert [(flaw.file, flaw.what.partition(" (")[0]) for flaw in flaws] == [
        ("tokenizer.json", "has another SHA-256"),
        ("train/00000.ds", "is missing"),
        ("train/00001.ds.index", "has 8 bytes, not 24"),
        ("train/00002.ds", "has another SHA-256"),
    ]


@pytest.mark.parametrize("bit", [0, 7])
def test_one_flipped_bit_is_found_in_any_file(tmp_path, bit):
    corpus = publish(tmp_path / "corpus")
    for name in (TOKENIZER, *corpus.manifest.sizes()):
        path = corpus.folder / name
        sound = path.read_bytes()
        path.write_bytes(sound[:-1] + bytes([sound[-1] ^ 1 << bit]))
        assert name in {flaw.file for flaw in flaws_of(corpus.folder)}
        path.write_bytes(sound)
    assert flaws_of(corpus.folder) == []


def sign(corpus, number):
    """Write the checksums of a shard as it is now into the manifest."""
    shards = list(corpus.manifest.shards["train"])
    path = corpus.folder / shards[number].name
    digests = [hashlib.sha256(path.with_name(path.name + suffix).read_bytes()).hexdigest() for suffix in ("", ".index")]
    shards[number] = shards[number].model_copy(update={"sha256": digests[0], "index_sha256": digests[1]})
    return change_manifest(corpus.folder, shards={"train": tuple(shards), "validation": ()})


@pytest.mark.parametrize(
    ("ends", "what"),
    [
        ([4, 4], "document 1 does not end after the one before it"),
        ([0, 6], "document 0 does not end after the one before it"),
        ([6, 4], "document 1 does not end after the one before it"),
        ([4, 5], "the last document ends at token 5, the shard has 6"),
    ],
)
@pytest.mark.parametrize("at_once", [1, 2**17])
def test_an_index_without_sense_is_found_though_its_checksum_is_right(tmp_path, monkeypatch, ends, what, at_once):
    monkeypatch.setattr("launcher.corpora.lengths._ENDS_AT_ONCE", at_once)
    corpus = publish(tmp_path / "corpus")
    rewrite(corpus.folder / "train" / "00000.ds.index", ends, "<u8")

    assert flaws_of(sign(corpus, 0).folder) == [Flaw("train/00000.ds.index", what)]


@pytest.mark.parametrize(("dtype", "at_once"), [("uint16", 2), ("uint32", 2**21)])
def test_an_id_beyond_the_vocabulary_is_found_though_its_checksum_is_right(tmp_path, monkeypatch, dtype, at_once):
    monkeypatch.setattr("launcher.corpora.verify._TOKENS_AT_ONCE", at_once)
    corpus = publish(tmp_path / "corpus", dtype=dtype)
    rewrite(corpus.folder / "train" / "00000.ds", [5, 512, 7, 2, 511, 2], dtype)

    flaws = flaws_of(sign(corpus, 0).folder)

    assert flaws == [Flaw("train/00000.ds", "holds id 512; the vocabulary ends at 511")]


def test_counts_that_the_shards_do_not_have_are_found(tmp_path):
    corpus = publish(tmp_path / "corpus")
    counts = corpus.manifest.counts.model_copy(update={"documents": {"train": 1_006, "validation": 0}})

    flaws = flaws_of(change_manifest(corpus.folder, counts=counts).folder)

    assert flaws == [Flaw(MANIFEST, "counts 1,006 documents in train, its shards have 5")]


@pytest.mark.parametrize(("mode", "number"), [(0o700, 0), (0o750, 1), (0o701, 1)])
def test_a_credentialed_corpus_that_others_may_enter_is_flawed(tmp_path, mode, number):
    corpus = publish(tmp_path / "corpus", data_use="credentialed")
    corpus.folder.chmod(mode)

    flaws = check_sizes(corpus)

    assert len(flaws) == number
    assert all(f"(mode {mode:04o}); `chmod 700 {corpus.folder}`" in flaw.what for flaw in flaws)


def test_samples_are_the_documents_without_what_frames_them(tmp_path):
    shards = [[[BOS, *ids] for ids in shard] for shard in DOCUMENTS]
    corpus = with_tokenizer(publish(tmp_path / "corpus", shards).folder, word_tokenizer(), prefix=(BOS,))

    drawn = draw(corpus, "train", count=99, seed=0, characters=600, has_credentials=False)

    assert [(one.number, one.tokens, one.text) for one in drawn] == [
        (0, 5, "w5 w6 w7"),
        (1, 3, "w8"),
        (2, 7, "w9 w9 w9 w9 w9"),
        (3, 3, "w10"),
        (4, 4, "w11 w12"),
    ]
    assert all(one.is_whole for one in drawn)
    assert draw(corpus, "validation", count=3, seed=0, characters=600, has_credentials=False) == []


def test_the_seed_says_which_documents_are_drawn(tmp_path):
    corpus = publish(tmp_path / "corpus", [[[3 + i, EOS] for i in range(50)], [[60 + i, EOS] for i in range(50)]])
    corpus = with_tokenizer(corpus.folder, word_tokenizer())

    first, again, other = (draw(corpus, "train", 5, seed, 600, has_credentials=False) for seed in (1, 1, 2))

    assert first == again != other
    assert [one.number for one in first] == sorted(one.number for one in first)
    assert all(one.text == f"w{one.number + (3 if one.number < 50 else 10)}" for one in first + other)


def test_long_text_is_cut_between_characters_and_read_no_further(tmp_path):
    text = "\N{GREEK SMALL LETTER ALPHA}" * 1000
    corpus = publish(tmp_path / "corpus", [[[*(3 + byte for byte in text.encode()), EOS]]])
    corpus = with_tokenizer(corpus.folder, byte_tokenizer())

    [cut_short] = draw(corpus, "train", 1, seed=0, characters=7, has_credentials=False)
    [whole] = draw(corpus, "train", 1, seed=0, characters=1000, has_credentials=False)

    assert (cut_short.text, cut_short.is_whole, cut_short.tokens) == (text[:7], False, 2001)
    assert (whole.text, whole.is_whole) == (text, True)


def test_credentialed_text_is_refused_before_anything_is_read(tmp_path):
    corpus = publish(tmp_path / "corpus", data_use="credentialed")
    (corpus.folder / TOKENIZER).unlink()

    with pytest.raises(LauncherError, match=r"holds credentialed text.*`--i-have-credentials`"):
        draw(corpus, "train", 1, seed=0, characters=600, has_credentials=False)


@pytest.mark.parametrize(
    ("name", "content"), [(TOKENIZER, b"{}\n"), ("train/00000.ds", b""), ("train/00000.ds.index", b"\0" * 7)]
)
def test_a_damaged_corpus_is_not_sampled(tmp_path, name, content):
    corpus = with_tokenizer(publish(tmp_path / "corpus").folder, word_tokenizer())
    (corpus.folder / name).write_bytes(content)

    with pytest.raises(LauncherError, match=name):
        draw(corpus, "train", 5, seed=0, characters=600, has_credentials=False)


def test_a_corpus_without_its_tokenizer_is_not_sampled(tmp_path):
    corpus = with_tokenizer(publish(tmp_path / "corpus").folder, word_tokenizer())
    (corpus.folder / TOKENIZER).unlink()

    with pytest.raises(LauncherError, match=r"tokenizer\.json: is missing; copy the corpus again"):
        draw(corpus, "train", 5, seed=0, characters=600, has_credentials=False)


def test_a_machine_without_tokenizers_is_told_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "tokenizers", None)

    with pytest.raises(LauncherError, match=r"install it with `pip install -e '\.\[data\]'` in a checkout"):
        draw(publish(tmp_path / "corpus"), "train", 1, seed=0, characters=600, has_credentials=False)


def source(name, **changes):
    facts = {"format": "pile", "options": {}, "license": "MIT", "size": 10, "sha256": name * 64, "records": 3}
    return SourceFile(path=f"/data/{name}.jsonl", **facts | changes)


def evaluation_set():
    facts = {"sha256": "e" * 64, "records": 40, "ngrams": 900, "documents": 3, "found": 2, "found_most": {"7": 2}}
    return EvaluationSet(path="/data/medqa.jsonl", **facts)


def test_a_corpus_does_not_differ_from_its_copy_under_another_name(tmp_path):
    left = publish(tmp_path / "left").manifest
    right = publish(tmp_path / "right", code="2.0 abc").manifest

    differences = compare(left, right)

    assert [(one.what, one.left, one.right) for one in differences] == [
        ("corpus", "left", "right"),
        ("code", "test", "2.0 abc"),
    ]
    assert not any(one.matters for one in differences)


def test_sources_are_added_removed_changed_or_moved(tmp_path):
    left = publish(tmp_path / "corpus", sources=tuple(map(source, "abcd"))).manifest
    moved = source("d").model_copy(update={"path": "/scratch/d.jsonl"})
    right = left.model_copy(update={"sources": (source("a"), source("b", license="CC0"), moved, source("e"))})

    found = {(one.topic, one.what): one for one in compare(left, right)}

    assert set(found) == {
        ("sources", "/data/b.jsonl"),
        ("sources", "/data/c.jsonl"),
        ("sources", "/data/e.jsonl"),
        ("origin", "source"),
    }
    changed = found["sources", "/data/b.jsonl"]
    assert [changed.left["license"], changed.right["license"]] == ["MIT", "CC0"]
    assert found["sources", "/data/c.jsonl"].right is None
    assert found["sources", "/data/e.jsonl"].left is None
    assert (found["origin", "source"].left, found["origin", "source"].right) == ("/data/d.jsonl", "/scratch/d.jsonl")


def test_what_stays_of_a_source_makes_it_no_other_source(tmp_path):
    left = publish(tmp_path / "corpus", sources=(source("a", documents={"train": 3}, tokens={"train": 30}),)).manifest
    right = left.model_copy(update={"sources": (source("a", documents={"train": 2}, tokens={"train": 20}),)})

    assert compare(left, right) == []


def test_a_file_that_is_read_twice_is_two_sources(tmp_path):
    once = publish(tmp_path / "corpus", sources=(source("a"),)).manifest
    twice = once.model_copy(update={"sources": (source("a"), source("a", options={"subsets": ["x"]}))})

    [difference] = compare(once, twice)

    assert (difference.left, difference.right["options"]) == (None, {"subsets": ["x"]})


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"data_use": "credentialed"}, ("settings", "data_use", "open", "credentialed")),
        ({"clean": {"near_duplicates": {"ngrams": 5}}}, ("settings", "clean.near_duplicates.ngrams", None, 5)),
        ({"decontamination": (evaluation_set(),)}, ("settings", "evaluation set /data/medqa.jsonl", None, "e" * 64)),
        ({"dtype": "uint32"}, ("settings", "dtype", "uint16", "uint32")),
    ],
)
def test_each_setting_that_differs_is_told(tmp_path, changes, expected):
    left = publish(tmp_path / "corpus").manifest

    [difference] = compare(left, left.model_copy(update=changes))

    assert (difference.topic, difference.what, difference.left, difference.right) == expected
    assert difference.matters


def test_evaluation_sets_are_compared_by_their_content_wherever_they_lie(tmp_path):
    left = publish(tmp_path / "corpus", decontamination=(evaluation_set(),)).manifest
    moved = evaluation_set().model_copy(update={"path": "/scratch/medqa.jsonl"})
    changed = evaluation_set().model_copy(update={"sha256": "f" * 64})

    [elsewhere] = compare(left, left.model_copy(update={"decontamination": (moved,)}))
    [other] = compare(left, left.model_copy(update={"decontamination": (changed,)}))

    assert (elsewhere.matters, elsewhere.left, elsewhere.right) == (False, "/data/medqa.jsonl", "/scratch/medqa.jsonl")
    assert (other.matters, other.left, other.right) == (True, "e" * 64, "f" * 64)


def test_counts_that_one_corpus_lacks_are_zero(tmp_path):
    left = publish(tmp_path / "corpus").manifest
    right = left.model_copy(update={"counts": left.counts.model_copy(update={"dropped": {"too_short": 4}})})

    [difference] = compare(left, right)

    assert (difference.topic, difference.what, difference.left, difference.right) == (
        "counts",
        "dropped.too_short",
        0,
        4,
    )


def test_shards_are_compared_by_their_bytes_and_order(tmp_path):
    left = publish(tmp_path / "corpus").manifest
    first, second = left.shards["train"]
    renamed = left.model_copy(
        update={"shards": {"train": (first.model_copy(update={"name": "train/x.ds"}), second), "validation": ()}}
    )
    swapped = left.model_copy(update={"shards": {"train": (second, first), "validation": ()}})
    fewer = left.model_copy(update={"shards": {"train": (second,), "validation": ()}})

    assert compare(left, renamed) == []
    for other, number in ((swapped, 2), (fewer, 1)):
        [difference] = compare(left, other)
        assert (difference.topic, difference.what) == ("shards", "train")
        assert difference.left == {"shards": 2, "in_both": number}
        assert difference.right == {"shards": number, "in_both": number}


def test_no_manifest_differs_from_itself_after_being_written_and_read(tmp_path):
    corpus = publish(tmp_path / "corpus", sources=(source("a"), source("b")), clean={"languages": ["en"]})

    assert compare(corpus.manifest, read_manifest(corpus.folder)) == []
    assert json.loads((corpus.folder / MANIFEST).read_text())["clean"] == {"languages": ["en"]}
