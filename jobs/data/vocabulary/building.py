"""Write the folder of an expanded tokenizer: the base's rules, with new tokens and merges after its own."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer
from transformers import PreTrainedTokenizerBase

from jobs.data.vocabulary.learning import NewToken
from jobs.rank.atomic_files import write_durably

_FILE, _CONFIG = "tokenizer.json", "tokenizer_config.json"
_OF_THIS_MACHINE = ("is_local", "local_files_only", "name_or_path")


def expand(backend: Tokenizer, tokens: Sequence[NewToken]) -> str:
    """Add tokens to a BPE, the first with its next id; return the content of tokenizer.json."""
    content: dict[str, Any] = json.loads(backend.to_str())
    model, first = content["model"], max(backend.get_vocab().values()) + 1
    # tokenizers looks up the ids of added tokens in the model; without an entry there they would get new ids.
    model["vocab"] |= {token["content"]: token["id"] for token in content["added_tokens"]}
    model["vocab"] |= {token.name: first + number for number, token in enumerate(tokens)}
    model["merges"] += [token.merge for token in tokens if token.merge]
    return json.dumps(content, ensure_ascii=False, indent=1)


def save(tokenizer: PreTrainedTokenizerBase, content: str, folder: Path) -> None:
    """Write an expanded tokenizer into an existing folder, from its base and the content of tokenizer.json."""
    # Its class is transformers' general one, which takes tokenizer.json as it is. Classes of models, such as
    # LlamaTokenizer, build a tokenizer of their own from parts of it.
    tokenizer.save_pretrained(folder)
    config = json.loads((folder / _CONFIG).read_text(encoding="utf-8"))
    kept = {key: value for key, value in config.items() if key not in _OF_THIS_MACHINE}
    write_durably(folder / _CONFIG, json.dumps(kept | {"tokenizer_class": "PreTrainedTokenizerFast"}, indent=1) + "\n")
    write_durably(folder / _FILE, content)
