"""Corpora for tests, from documents given as token ids."""

import hashlib
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

from jobs.data.corpus import Corpus, open_corpus
from jobs.data.mixture import Mixture
from jobs.data.pieces import cut
from jobs.data.samples import Samples
from jobs.data.shards import ShardWriter
from launcher.corpora.find import open_published
from launcher.corpora.verify import Flaw, check_contents, check_sizes, sound_shards
from launcher.corpus import TOKENIZER, Manifest, SplitRule, Tally, TokenizerRecord

Documents = Sequence[Sequence[int]]


def make_corpus(folder: Path, shards: Sequence[Documents], dtype: str = "uint16") -> Corpus:
    """Publish a corpus of one split, `train`, named like its folder; each item of `shards` becomes a shard."""
    written = []
    for number, documents in enumerate(shards):
        writer = ShardWriter(folder, f"train/{number:05d}.ds", dtype)
        writer.write(documents)
        written.append(writer.close())
    tokenizer = b"{}"
    (folder / TOKENIZER).write_bytes(tokenizer)
    manifest = Manifest(
        corpus=folder.name,
        data_use="open",
        fingerprint="0" * 64,
        code="test",
        tokenizer=TokenizerRecord(
            path="none", vocab_size=512, fingerprint=hashlib.sha256(tokenizer).hexdigest(), prefix=(), eos=2
        ),
        dtype=dtype,
        split=SplitRule(validation=0.0),
        clean={},
        counts=Tally(
            documents={"train": sum(len(documents) for documents in shards), "validation": 0},
            tokens={"train": sum(len(ids) for documents in shards for ids in documents), "validation": 0},
        ),
        sources=(),
        shards={"train": tuple(written), "validation": ()},
    )
    (folder / "manifest.json").write_text(manifest.model_dump_json(indent=1))
    return open_corpus(folder)


def flaws_of(folder: Path) -> list[Flaw]:
    """Everything that `launcher corpus verify` finds wrong with a corpus."""
    corpus = open_published(folder)
    flaws = check_sizes(corpus)
    return flaws + check_contents(corpus, sound_shards(corpus, flaws), lambda _: None)


def packed_samples(
    corpora: Sequence[Corpus], weights: Sequence[float], length: int, seed: int, num_samples: int
) -> Samples:
    """Windows of corpora, mixed in fixed proportions."""
    mixture = Mixture([(0, [Fraction(str(weight)) for weight in weights])])
    return Samples(cut(corpora, "packed", "train", length), mixture, length, seed, num_samples)
