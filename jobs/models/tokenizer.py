"""From text to token ids, with the special tokens that the model expects around a document."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import takewhile

from tokenizers import Tokenizer
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from jobs.models.folder import loading
from launcher.artifacts.corpus_manifest import IdFormat, TokenizerRecord
from launcher.errors import LauncherError


@dataclass(frozen=True)
class TextEncoder:
    """Encodes documents: the tokenizer's own start (BOS for Llama, none for GPT-2), the text, EOS.

    BOS is kept where the tokenizer adds it. Documents do not attend to one another in training, so each one's first
    token has the place that BOS has whenever the model is used; Llama and Gemma rely on it as an attention sink (Xiao
    et al. 2023, https://arxiv.org/abs/2309.17453). Names of special tokens that occur in the text are text.
    """

    backend: Tokenizer
    record: TokenizerRecord
    adds_eos: bool
    """The tokenizer itself puts EOS at the end."""

    @property
    def dtype(self) -> IdFormat:
        """The narrowest format that holds every id."""
        return "uint16" if self.record.vocab_size <= 2**16 else "uint32"

    def encode(self, texts: Sequence[str]) -> list[list[int]]:
        """Token ids of each text, EOS included."""
        encoded = [encoding.ids for encoding in self.backend.encode_batch_fast(texts)]
        if not self.adds_eos:
            for ids in encoded:
                ids.append(self.record.eos)
        return encoded


def load_encoder(path: str, name: str) -> TextEncoder:
    """Load a tokenizer.

    Args:
        path: Folder, or Hugging Face id.
        name: What the recipe calls it.

    Raises:
        LauncherError: it cannot be loaded, or cannot end a document.
    """
    tokenizer = load_tokenizer(path, name)
    if tokenizer.eos_token_id is None:
        raise LauncherError(
            f"tokenizer `{name}` has no end-of-sequence token, which ends documents; set `eos_token` in its "
            "tokenizer_config.json"
        )
    backend: Tokenizer = tokenizer.backend_tokenizer
    backend.no_truncation()
    backend.no_padding()
    backend.encode_special_tokens = True
    frame = backend.encode("a")
    special = zip(frame.ids, frame.special_tokens_mask, strict=True)
    record = TokenizerRecord(
        path=name,
        # Not len(tokenizer): some vocabularies have holes.
        vocab_size=max(backend.get_vocab().values()) + 1,
        fingerprint=hashlib.sha256(backend.to_str().encode()).hexdigest(),
        prefix=tuple(token for token, _ in takewhile(lambda pair: pair[1], special)),
        eos=tokenizer.eos_token_id,
    )
    return TextEncoder(backend, record, adds_eos=frame.ids[-1] == tokenizer.eos_token_id)


def load_tokenizer(path: str, name: str, trust_remote_code: bool = False) -> PreTrainedTokenizerBase:
    """Load a tokenizer that has a tokenizer.json.

    Args:
        path: Folder, or Hugging Face id.
        name: What the recipe calls it.
        trust_remote_code: Run code that comes with it.

    Raises:
        LauncherError: it cannot be loaded, or has no tokenizer.json.
    """
    with loading(path, f"tokenizer `{name}`"):
        tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(path, trust_remote_code=trust_remote_code)
    if not tokenizer.is_fast:
        raise LauncherError(f"tokenizer `{name}` has no tokenizer.json; convert it with `save_pretrained`")
    return tokenizer


def padding_token(tokenizer: PreTrainedTokenizerBase, name: str) -> str:
    """Return the token that a head's model pads with: the tokenizer's own, else EOS.

    Args:
        tokenizer: The model's.
        name: What the recipe calls it.

    Raises:
        LauncherError: it has neither.
    """
    token = tokenizer.pad_token or tokenizer.eos_token
    if token is None:
        raise LauncherError(f"tokenizer `{name}` has neither a padding nor an EOS token; set `pad_token`")
    return str(token)
