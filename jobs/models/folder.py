"""Folders of models and adapters as a whole: found, checksummed, and what goes with weights copied unchanged.

Tokenizers are copied as files: loading one and saving it again can lose its chat template, or write what other versions
read differently.
"""

import hashlib
import os
import shutil
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import transformers
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from jobs.rank.transfer import transfer
from jobs.rank.watchdog import WATCHDOG
from launcher.artifacts.adapter_folder import is_credentialed, read_object
from launcher.artifacts.model_folder import require_files, require_own_files, require_tokenizer_files
from launcher.errors import LauncherError
from launcher.recipe.kinds.export import ExportRecipe
from launcher.recipe.kinds.merge import MergeRecipe

FILES = ("*.safetensors", "*.json", "*.model", "*.txt", "*.jinja", "*.tiktoken")
"""Files of models, adapters and tokenizers."""
TOKENIZER_FILES = (
    "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "vocab.json",
    "vocab.txt", "merges.txt", "*.model", "*.tiktoken", "chat_template.json", "chat_template.jinja",
    "additional_chat_templates/*.jinja", "expansion.json",
)  # fmt: skip
TOKENIZER_CONFIG = "tokenizer_config.json"
CHAT_TEMPLATE = "chat_template.jinja"
GENERATION_CONFIG = "generation_config.json"
_MANIFEST = "manifest.json"
_OTHER_SHAPES = "its weights have other shapes than its config.json says"
_FIXES = {
    "trust_remote_code": "write `trust_remote_code: true` if you have read and trust the code that comes with it",
    "does not recognize this architecture": "transformers {version} cannot load this type: name another model",
    "Unrecognized model": "copy its config.json as well, or name another model",
    _OTHER_SHAPES: "copy both from one place, without changes",
    "connect": "write a folder below the profile's `roots.models`, or load it into the cache of the Hugging Face Hub",
    "no such folder": "check the name, or write a folder below the profile's `roots.models`",
    "not a local folder": "check the name, or write a folder below the profile's `roots.models`",
    "packages": "install them on the nodes",
}
"""What to do, by a part of the library's message."""


@contextmanager
def loading(located: str | Path, name: str, weights: bool = False) -> Iterator[None]:
    """Load a model, a tokenizer or a configuration; files that cannot be loaded now never can.

    Args:
        located: Folder or Hugging Face id.
        name: What the recipe calls it, with its key if there is one.
        weights: Weights are loaded as well.

    Raises:
        LauncherError: it cannot be loaded; one line names the file, or what the library said, and the fix.
    """
    folder = Path(located)
    try:
        if folder.is_dir():
            require_files(folder, weights)
            yield
            return
        if folder.is_absolute():
            raise FileNotFoundError("there is no such folder")
        with WATCHDOG.counting_transfers():
            yield
    except LauncherError as error:
        raise LauncherError(f"{name}: {error}") from None
    except Exception as error:
        if not _is_of_files(error):
            raise
        raise LauncherError(f"{name}: {_explain(error, located)}") from error


def _explain(error: Exception, located: str | Path) -> str:
    try:
        require_tokenizer_files(Path(located))
    except LauncherError as found:
        return str(found)
    said = _OTHER_SHAPES if isinstance(error, RuntimeError) else " ".join(str(error).split())
    fix = next((fix for part, fix in _FIXES.items() if part in said), "copy it again, or name another")
    first_sentence = said.partition(". ")[0].removesuffix(".")[:300]
    return f"`{located}` cannot be loaded: {first_sentence}; {fix.format(version=transformers.__version__)}"


def _is_of_files(error: Exception) -> bool:
    """Tell whether files are what transformers or one of its libraries cannot load."""
    # They come with transformers. `prepare` loads a tokenizer without having asked for them.
    from huggingface_hub.errors import StrictDataclassError
    from safetensors import SafetensorError

    of_libraries = (OSError, ValueError, LookupError, ImportError, RuntimeError, SafetensorError, StrictDataclassError)
    if not isinstance(error, of_libraries):
        return False
    if isinstance(error, OSError):
        return error.errno is None  # one with a number is the file system's: it may answer next time
    return not isinstance(error, RuntimeError) or "ignore_mismatched_sizes" in str(error)


def require_no_adapter(model: Any, name: str) -> None:
    """Refuse a model to which transformers has added an adapter that lay beside it, on the Hugging Face Hub, say.

    Args:
        model: Just loaded.
        name: Its folder or Hugging Face id, with the recipe's key.

    Raises:
        LauncherError: it has an adapter.
    """
    if getattr(model, "_hf_peft_config_loaded", False):
        raise LauncherError(
            f"{name} comes with an adapter, which would be part of the model without a word; name the adapter as one "
            "(`model.adapters`), or a model without"
        )


def local_folder(located: str, key: str) -> Path:
    """Find the files of a model or adapter; a Hugging Face id is downloaded unless it is cached.

    Args:
        located: Folder or Hugging Face id.
        key: Of the recipe, for the message.

    Raises:
        LauncherError: it was not found.
        StopRequested: a stop was asked for before it was there.
    """
    if os.path.isabs(located):
        return Path(located)
    try:
        from huggingface_hub import snapshot_download

        return Path(transfer(partial(snapshot_download, located, allow_patterns=list(FILES))))
    except (OSError, ValueError) as error:
        where = "neither on this machine nor on the Hugging Face Hub"
        raise LauncherError(f"{key}: `{located}` was found {where}: {error}") from error


def require_data_use(said: str, sources: Iterable[Path]) -> None:
    """Refuse to make something open from credentialed data.

    Args:
        said: The recipe's `data_use`.
        sources: Folders of models and adapters that it starts from.

    Raises:
        LauncherError: one of them was made of credentialed data.
    """
    for folder in sources:
        if said == "open" and is_credentialed(folder):
            raise LauncherError(f"data_use: `{folder}` was made of credentialed data; write `credentialed`")


def describe_other_model(folder: Path, inputs: str, recipe: ExportRecipe | MergeRecipe) -> str | None:
    """Say what a folder holds instead of the model that a recipe makes; None if it is this model.

    Args:
        folder: A published model.
        inputs: Checksum of what the recipe makes it of, as the model's manifest has it.
        recipe: The recipe.
    """
    there = read_object(folder / _MANIFEST) or {}
    if there.get("inputs") == inputs:
        return None
    if there.get("data_use") not in (None, recipe.data_use):
        return f"was published with `data_use: {there['data_use']}`, which this recipe does not say"
    return f"holds something other than this {recipe.kind} would make"


def let_others_read(folder: Path) -> None:
    """Give weights the mode that the umask gives to files: safetensors 0.8 makes them readable by their owner only."""
    probe = folder / ".rights"
    probe.touch()
    mode = probe.stat().st_mode
    probe.unlink()
    for path in folder.rglob("*.safetensors"):
        path.chmod(mode)


def checksums(folder: Path, heartbeat: Callable[[], None]) -> dict[str, str]:
    """Return the SHA-256 of each file that matters, by its name.

    Args:
        folder: Of a model or an adapter.
        heartbeat: Called often while files are read.
    """
    files = sorted({path for pattern in FILES for path in folder.glob(pattern) if path.name != _MANIFEST})
    return {path.name: _sha256(path, heartbeat) for path in files}


def _sha256(path: Path, heartbeat: Callable[[], None]) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 24):
            heartbeat()
            digest.update(block)
    return digest.hexdigest()


def load_tokenizer(folder: Path) -> PreTrainedTokenizerBase:
    """Load a tokenizer from its files.

    Raises:
        LauncherError: there is none that can be loaded.
    """
    with loading(folder, "tokenizer"):
        tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    return tokenizer


def copy_tokenizer(source: Path, base: Path, folder: Path) -> None:
    """Copy a tokenizer's files, and the base's chat template if it has none of its own.

    Raises:
        LauncherError: one of them is a link to a file of somebody else, or the copy cannot be loaded.
    """
    require_own_files(source)
    for path in sorted({path for pattern in TOKENIZER_FILES for path in source.glob(pattern)}):
        target = folder / path.relative_to(source)
        target.parent.mkdir(exist_ok=True)
        shutil.copyfile(path, target)
    template = load_tokenizer(base).chat_template
    if isinstance(template, str) and load_tokenizer(folder).chat_template is None:
        (folder / CHAT_TEMPLATE).write_text(template, encoding="utf-8")


def copy_generation_config(sources: list[Path], folder: Path) -> None:
    """Copy the generation defaults of the first source that has some; if none has, remove them.

    Raises:
        LauncherError: they are a link to a file of somebody else.
    """
    (folder / GENERATION_CONFIG).unlink(missing_ok=True)
    found = next((source for source in sources if (source / GENERATION_CONFIG).is_file()), None)
    if found:
        require_own_files(found)
        shutil.copyfile(found / GENERATION_CONFIG, folder / GENERATION_CONFIG)
