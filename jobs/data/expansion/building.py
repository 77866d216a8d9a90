"""From new tokens to a tokenizer's folder: the base's rules as they are, with tokens and merges behind its own."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer
from transformers import PreTrainedTokenizerBase

from jobs.data.expansion.learning import NewToken
from jobs.runtime.durable import write_durably

_FILE, _CONFIG = "tokenizer.json", "tokenizer_config.json"
_OF_THIS_MACHINE = ("is_local", "local_files_only", "name_or_path")


def expand(backend: Tokenizer, tokens: Sequence[NewToken]) -> str:
    """Add tokens to a BPE.

    Args:
        backend: The base.
        tokens: What to add; the first gets the base's next id.

    Returns:
        The content of tokenizer.json.
    """
    content: dict[str, Any] = json.loads(backend.to_str())
    model, first = content["model"], max(backend.get_vocab().values()) + 1
    # Added tokens get their ids by looking them up in the model; those that are not there are counted on from the size
    # of its vocabulary, which is larger now.
    model["vocab"] |= {token["content"]: token["id"] for token in content["added_tokens"]}
    model["vocab"] |= {token.name: first + number for number, token in enumerate(tokens)}
    model["merges"] += [token.merge for token in tokens if token.merge]
    return json.dumps(content, ensure_ascii=False, indent=1)


def save(tokenizer: PreTrainedTokenizerBase, content: str, folder: Path) -> None:
    """Write the folder of an expanded tokenizer.

    Its class is transformers' general one, which takes tokenizer.json as it is. Classes of models, such as
    LlamaTokenizer, build a tokenizer of their own from parts of it.

    Args:
        tokenizer: The base.
        content: Of tokenizer.json.
        folder: Is there.
    """
    tokenizer.save_pretrained(folder)
    config = json.loads((folder / _CONFIG).read_text(encoding="utf-8"))
    kept = {key: value for key, value in config.items() if key not in _OF_THIS_MACHINE}
    write_durably(folder / _CONFIG, json.dumps(kept | {"tokenizer_class": "PreTrainedTokenizerFast"}, indent=1) + "\n")
    write_durably(folder / _FILE, content)
