"""Tokenizers to expand in tests, and what they learn from."""
# ruff: noqa: RUF001 - Chinese punctuation

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from jobs.data.corpus.shard_writer import text_hash
from jobs.data.vocabulary.base import Base, read_base
from jobs.data.vocabulary.building import expand, save
from jobs.data.vocabulary.counting import WordCounts
from jobs.data.vocabulary.learning import NewToken, learn
from jobs.models.tokenizer import load_encoder
from launcher.recipe.kinds.vocabulary import VocabularyRecipe
from tests.support.prepare_runs import ASSETS, abstracts
from tests.support.shared_data import shared_data

CHINESE = (
    "高血压病人应当控制血压，少吃盐。糖尿病患者要注意血糖变化，每天坚持运动。",
    "患者咳嗽三天，有发热、头痛的症状，考虑为上呼吸道感染，建议多喝水。",
    "糖尿病患者的血糖控制不好，会引起高血压等并发症；患者应当定期检查血糖。",
    "头痛和发热是感染的常见症状。高血压患者头痛时要测量血压。",
)
"""Written for these tests."""
_LLAMA_3 = Regex(r"[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s+(?!\S)|\s+")


def recipe_of(**changes: object) -> VocabularyRecipe:
    """A recipe with small numbers; keywords replace its keys."""
    fields = {
        "kind": "vocabulary",
        "name": "vocabulary",
        "tokenizer": "base",
        "output": "expanded",
        "sources": [{"format": "pile", "files": "./*.jsonl*", "license": "MIT"}],
        "new_tokens": 400,
        "min_documents": 3,
        "heldout": 0.1,
        "resources": {"cpus_per_task": 2, "time": "1h"},
    }
    return VocabularyRecipe.model_validate_json(json.dumps(fields | changes))


def count(base: Base, texts: Sequence[str], enough: int) -> WordCounts:
    """Count the words of documents."""
    words = WordCounts(enough)
    for text, (found, _) in zip(texts, base.cut(texts), strict=True):
        words.add(text, found, text_hash(text))
    return words


@dataclass(frozen=True)
class Expanded:
    """A base that has learned."""

    base: PreTrainedTokenizerBase
    new: PreTrainedTokenizerBase
    tokens: list[NewToken]
    content: dict
    """The expanded tokenizer.json."""

    @cached_property
    def first(self) -> int:
        """The first new id."""
        return max(self.base.get_vocab().values()) + 1

    def replaced(self, ids: Sequence[int]) -> list[int]:
        """The base's ids, in the place of new ones."""
        return [old for new in ids for old in ((new,) if new < self.first else self.tokens[new - self.first].parts)]


def learned(base: Path, texts: Sequence[str], **changes: object) -> Expanded:
    """Expand a base, and load the result as users do."""
    recipe = recipe_of(**changes)
    tables = read_base(load_encoder(str(base), "base").backend, "base")
    tokens = learn(tables, count(tables, texts, recipe.min_documents), recipe)
    original = AutoTokenizer.from_pretrained(base)
    with TemporaryDirectory() as folder:
        save(original, expand(original.backend_tokenizer, tokens), Path(folder))
        content = json.loads((Path(folder) / "tokenizer.json").read_text())
        return Expanded(original, AutoTokenizer.from_pretrained(folder), tokens, content)


def learning_texts() -> list[str]:
    """Abstracts, and Chinese text with them."""
    return abstracts()[:300] + [f"{text} ({number})" for number in range(3) for text in CHINESE]


def llama_3_like(folder: Path) -> Path:
    """A byte-level BPE as Llama 3's: special tokens are none of the model, whole words come before merges."""
    tokenizer = Tokenizer(models.BPE(ignore_merges=True))
    split = pre_tokenizers.Split(_LLAMA_3, "isolated")
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([split, pre_tokenizers.ByteLevel(False, use_regex=False)])
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=600, initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator(abstracts()[300:], trainer)
    content = json.loads(tokenizer.to_str())
    content["model"]["vocab"]["Ġwhole"] = 600  # a token that no merge makes
    content["added_tokens"] = [
        {"id": 601 + number, "content": name, "single_word": False, "lstrip": False, "rstrip": False}
        | {"normalized": False, "special": True}
        for number, name in enumerate(["<|begin|>", "<|end|>"])
    ]
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "tokenizer.json").write_text(json.dumps(content))
    config = {"tokenizer_class": "PreTrainedTokenizerFast", "bos_token": "<|begin|>", "eos_token": "<|end|>"}
    (folder / "tokenizer_config.json").write_text(json.dumps(config | {"chat_template": "{{ messages }}"}))
    return folder


def base_folder(name: str, folder: Path) -> Path:
    """Find or make a base by its name."""
    if name == "stories260k":
        return ASSETS / name
    if name == "llama-3":
        return llama_3_like(folder / name)
    if "spm" in name:  # transformers converts it
        pytest.importorskip("sentencepiece")
    return shared_data(f"tokenizers/{name}")
