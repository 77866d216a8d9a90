"""Folders of models and adapters as a whole: found, checksummed, and what goes with weights copied unchanged.

Tokenizers are copied as files: loading one and saving it again can lose its chat template, or write what other versions
read differently.
"""

import hashlib
import os
import shutil
from collections.abc import Callable, Iterable
from pathlib import Path

from huggingface_hub import snapshot_download
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from launcher.adapters import is_credentialed
from launcher.errors import LauncherError

FILES = ("*.safetensors", "*.json", "*.model", "*.txt", "*.jinja", "*.tiktoken")
"""What models, adapters and tokenizers consist of."""
TOKENIZER_FILES = (
    "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "vocab.json",
    "vocab.txt", "merges.txt", "*.model", "*.tiktoken", "chat_template.json", "chat_template.jinja",
    "additional_chat_templates/*.jinja", "expansion.json",
)  # fmt: skip
TOKENIZER_CONFIG = "tokenizer_config.json"
CHAT_TEMPLATE = "chat_template.jinja"
GENERATION_CONFIG = "generation_config.json"
_MANIFEST = "manifest.json"


def local_folder(located: str, key: str) -> Path:
    """Find the files of a model or adapter; a Hugging Face id is downloaded unless it is there.

    Args:
        located: Folder or Hugging Face id.
        key: Of the recipe, for the message.

    Raises:
        LauncherError: there is no such thing.
    """
    if os.path.isabs(located):
        return Path(located)
    try:
        return Path(snapshot_download(located, allow_patterns=list(FILES)))
    except (OSError, ValueError) as error:
        raise LauncherError(f"{key}: `{located}` is neither here nor on the Hugging Face Hub: {error}") from error


def require_data_use(said: str, sources: Iterable[Path]) -> None:
    """Refuse to make something open of what was made of credentialed data.

    Args:
        said: The recipe's `data_use`.
        sources: Folders of models and adapters that it starts from.

    Raises:
        LauncherError: one of them is bound by an agreement.
    """
    for folder in sources:
        if said == "open" and is_credentialed(folder):
            raise LauncherError(f"data_use: `{folder}` was made of credentialed data; write `credentialed`")


def let_others_read(folder: Path) -> None:
    """Give weights the rights that the umask gives to files: safetensors 0.8 makes them for their owner alone."""
    probe = folder / ".rights"
    probe.touch()
    mode = probe.stat().st_mode
    probe.unlink()
    for path in folder.rglob("*.safetensors"):
        path.chmod(mode)


def checksums(folder: Path, beat: Callable[[], None]) -> dict[str, str]:
    """SHA-256 of each file that makes a difference, by its name.

    Args:
        folder: Of a model or an adapter.
        beat: Called before each file and within large ones.
    """
    files = sorted({path for pattern in FILES for path in folder.glob(pattern) if path.name != _MANIFEST})
    return {path.name: _sha256(path, beat) for path in files}


def _sha256(path: Path, beat: Callable[[], None]) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 24):
            beat()
            digest.update(block)
    return digest.hexdigest()


def load_tokenizer(folder: Path) -> PreTrainedTokenizerBase:
    """Load a tokenizer from its files.

    Raises:
        LauncherError: there is none that can be loaded.
    """
    try:
        tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    except (OSError, ValueError) as error:
        raise LauncherError(f"{folder}: holds no tokenizer that can be loaded: {error}") from error
    return tokenizer


def copy_tokenizer(source: Path, base: Path, folder: Path) -> None:
    """Copy a tokenizer's files, and the base's chat template if it has none of its own."""
    for path in sorted({path for pattern in TOKENIZER_FILES for path in source.glob(pattern)}):
        target = folder / path.relative_to(source)
        target.parent.mkdir(exist_ok=True)
        shutil.copyfile(path, target)
    template = load_tokenizer(base).chat_template
    if isinstance(template, str) and load_tokenizer(folder).chat_template is None:
        (folder / CHAT_TEMPLATE).write_text(template, encoding="utf-8")


def copy_generation_config(sources: list[Path], folder: Path) -> None:
    """Copy the first one's defaults for generation that has some; without, there are none."""
    (folder / GENERATION_CONFIG).unlink(missing_ok=True)
    found = next((source for source in sources if (source / GENERATION_CONFIG).is_file()), None)
    if found:
        shutil.copyfile(found / GENERATION_CONFIG, folder / GENERATION_CONFIG)
