"""Tokenizers and conversations for tests of fine-tuning."""

from pathlib import Path
from typing import Any

from pydantic import TypeAdapter
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from jobs.data.chat.formats import Message, conversation_of
from jobs.data.chat.records import read_records
from jobs.data.readers.source_stream import SourceStream
from launcher.recipe.sections.chat_sources import ChatSource
from tests.support.shared_data import shared_data

STORIES = Path(__file__).parents[2] / "recipes" / "assets" / "stories260k"
_adapter: TypeAdapter[ChatSource] = TypeAdapter(ChatSource)

MARKERS = [
    "<|im_start|>",
    "<|im_end|>",
    "<|start_header_id|>",
    "<|end_header_id|>",
    "<|eot_id|>",
]
"""Control tokens of ChatML and Llama 3."""


def source_of(form: str, **options: Any) -> ChatSource:
    """A source in one format."""
    return _adapter.validate_python({"name": "x", "files": "x", "format": form, **options})


def tokenizer_of(name: str, with_markers: bool = False) -> PreTrainedTokenizerBase:
    """A real tokenizer: `stories`, or one below the shared data's `tokenizers`."""
    path = STORIES if name == "stories" else shared_data(f"tokenizers/{name}")
    tokenizer = AutoTokenizer.from_pretrained(path)
    if with_markers:
        tokenizer.add_special_tokens({"additional_special_tokens": MARKERS})
    return tokenizer


def conversations(name: str, form: str, count: int, **options: Any) -> list[list[Message]]:
    """Real conversations out of a file of the shared data."""
    source, found = source_of(form, **options), []
    for _, _, record in read_records(SourceStream(shared_data(name))):
        found.append(conversation_of(record, source))
    return [conversation.messages for conversation in found[:count] if conversation is not None]


def question(text: str, answer: str) -> list[Message]:
    """A question and its answer."""
    return [{"role": "user", "content": text}, {"role": "assistant", "content": answer}]
