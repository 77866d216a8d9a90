"""Corpora for tests, from documents given as token ids."""

import hashlib
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

from jobs.data.corpus.shard_writer import ShardWriter
from jobs.data.sampling.corpus_reader import CorpusReader, open_corpus
from jobs.data.sampling.dataset import Samples
from jobs.data.sampling.mixture import Mixture
from jobs.data.sampling.sequences import cut
from launcher.artifacts.corpus_manifest import SPLITS, TOKENIZER, Manifest, Shard, SplitRule, Tally, TokenizerRecord
from launcher.corpora.find import open_published
from launcher.corpora.verify import Flaw, check_contents, check_sizes, sound_shards

Documents = Sequence[Sequence[int]]


def make_corpus(
    folder: Path,
    shards: Sequence[Documents],
    dtype: str = "uint16",
    validation: Documents = (),
    tokenizer: bytes = b"{}",
    vocabulary: int = 512,
) -> CorpusReader:
    """Publish a corpus named like its folder; each item of `shards` becomes a shard of `train`."""
    splits = {"train": shards, "validation": [validation] if validation else []}
    written = {split: _written(folder, split, parts, dtype) for split, parts in splits.items()}
    (folder / TOKENIZER).write_bytes(tokenizer)
    manifest = Manifest(
        corpus=folder.name,
        data_use="open",
        fingerprint="0" * 64,
        code="test",
        tokenizer=TokenizerRecord(
            path="none", vocab_size=vocabulary, fingerprint=hashlib.sha256(tokenizer).hexdigest(), prefix=(), eos=2
        ),
        dtype=dtype,
        split=SplitRule(validation=0.0),
        clean={},
        counts=Tally(
            documents={split: sum(shard.documents for shard in written[split]) for split in SPLITS},
            tokens={split: sum(shard.tokens for shard in written[split]) for split in SPLITS},
        ),
        sources=(),
        shards=written,
    )
    (folder / "manifest.json").write_text(manifest.model_dump_json(indent=1))
    return open_corpus(folder)


def _written(folder: Path, split: str, parts: Sequence[Documents], dtype: str) -> tuple[Shard, ...]:
    shards = []
    for number, documents in enumerate(parts):
        writer = ShardWriter(folder, f"{split}/{number:05d}.ds", dtype)
        writer.write(documents)
        shards.append(writer.close())
    return tuple(shards)


def flaws_of(folder: Path) -> list[Flaw]:
    """Everything that `launcher corpus verify` finds wrong with a corpus."""
    corpus = open_published(folder)
    flaws = check_sizes(corpus)
    return flaws + check_contents(corpus, sound_shards(corpus, flaws), lambda _: None)


def packed_samples(
    corpora: Sequence[CorpusReader], weights: Sequence[float], length: int, seed: int, num_samples: int
) -> Samples:
    """Windows of corpora, mixed in fixed proportions."""
    mixture = Mixture([(0, [Fraction(str(weight)) for weight in weights])])
    return Samples(cut(corpora, "packed", "train", length), mixture, length, seed, num_samples)
