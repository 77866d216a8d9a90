"""Folders of models and tokenizers as people copy them: files that cannot be loaded are found without loading them."""

import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from launcher.errors import LauncherError

WEIGHTS = "model.safetensors"
INDEX = f"{WEIGHTS}.index.json"
CONFIG = "config.json"
ADAPTER_CONFIG = "adapter_config.json"
_POINTER = b"version https://git-lfs.github.com/spec/"
_POINTER_BYTES = 1024
"""A file that Git LFS left out is a few lines of text."""
_HEADER_BYTES = 100_000_000
"""The safetensors library reads no longer header."""
_SUFFIXES = frozenset({".json", ".model", ".txt", ".jinja", ".tiktoken"})
_TEMPLATES = "additional_chat_templates/*"
"""The only files of a subfolder that belong to a tokenizer."""
_OF_TOKENIZER = ("tokenizer.json", "tokenizer_config.json")


def require_files(folder: Path, weights: bool) -> None:
    """Refuse a folder of a model or tokenizer whose files are damaged, missing or in a format that is never read.

    A folder without any weights passes: `validate` may look at a machine that has the configuration only.

    Args:
        folder: The folder.
        weights: Look at the weights, too.

    Raises:
        LauncherError: a file cannot be loaded; it names the file and the fix.
    """
    require_own_files(folder)
    for path in sorted(folder.iterdir()):
        if path.suffix in _SUFFIXES and path.is_file():
            _refuse_pointer(path)
    _require_objects(folder, (CONFIG,))
    if weights:
        _refuse_hidden_adapter(folder)
        for path in _weight_files(folder):
            require_whole(path)


def require_own_files(folder: Path) -> None:
    """Refuse files, other than weights, that are links to somewhere else: what is made of the model would hold copies.

    The cache of the Hugging Face Hub has links in `snapshots/REVISION` to its own `blobs`.

    Raises:
        LauncherError: a file lies elsewhere; it names the file and the fix.
    """
    own = Path(os.path.realpath(folder))
    places = [own, own.parents[1] / "blobs"] if own.parent.name == "snapshots" else [own]
    for path in sorted([*folder.iterdir(), *folder.glob(_TEMPLATES)]):
        real = Path(os.path.realpath(path))
        if path.suffix in _SUFFIXES and not any(real.is_relative_to(place) for place in places):
            raise LauncherError(
                f"{path}: is a link to `{real}`, outside of the folder, and would be copied into what is made of the "
                "model; put the file itself there if it belongs to the model, or remove the link"
            )


def _refuse_hidden_adapter(folder: Path) -> None:
    if (path := folder / ADAPTER_CONFIG).exists():
        raise LauncherError(
            f"{path}: transformers would add this adapter to the model without a word; name the adapter as one "
            "(`model.adapters`), or remove the file"
        )


def require_tokenizer_files(folder: Path) -> None:
    """Refuse files of a tokenizer that are not JSON; they can be many megabytes, so not where nothing is loaded.

    Raises:
        LauncherError: one is damaged.
    """
    _require_objects(folder, _OF_TOKENIZER)


def require_whole(path: Path) -> None:
    """Refuse a safetensors file that was not copied to its end, or is none.

    Raises:
        LauncherError: it is damaged.
    """
    _refuse_pointer(path)
    size = path.stat().st_size
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        header = file.read(length) if length <= min(size, _HEADER_BYTES) else b""
    try:
        ends = [entry["data_offsets"][1] for name, entry in json.loads(header).items() if name != "__metadata__"]
        expected = 8 + length + int(max(ends, default=0))
    except (ValueError, LookupError, TypeError, AttributeError, OverflowError, RecursionError):
        raise LauncherError(f"{path}: is no complete safetensors file ({size:,} bytes); copy it again") from None
    if size != expected:
        raise LauncherError(f"{path}: has {size:,} bytes, but its header says {expected:,}; copy it again")


def _weight_files(folder: Path) -> list[Path]:
    """Return the files that transformers would read; none if there are no weights."""
    if (folder / WEIGHTS).is_file():
        return [folder / WEIGHTS]
    if (folder / INDEX).is_file():
        names = shard_names(_read_object(folder / INDEX))
        if not names:
            raise LauncherError(f"{folder / INDEX}: its `weight_map` names no files of this folder; copy it again")
        if missing := [name for name in names if not (folder / name).is_file()]:
            which = f"`{missing[0]}`" + (f" and {len(missing) - 1} more of its shards" if missing[1:] else "")
            raise LauncherError(f"{folder / INDEX}: names {which}, which the folder does not have; copy it again")
        return [folder / name for name in names]
    pickles = sorted(path.name for pattern in ("*.bin", "*.pt", "*.pth", "*.ckpt") for path in folder.glob(pattern))
    if pickles and (folder / CONFIG).is_file():
        raise LauncherError(
            f"{folder / pickles[0]}: weights as pickles can run code and are never read; on a machine where you trust "
            f"them, load the model with transformers and write {WEIGHTS} with `save_pretrained`"
        )
    return []


def shard_names(index: Mapping[str, Any]) -> list[str]:
    """Name the files that an index of weights leads to; none if it says anything but names of files beside it."""
    found = index.get("weight_map")
    values = [*found.values()] if isinstance(found, dict) else []
    names = {one for one in values if isinstance(one, str) and one.isprintable() and Path(one).name == one}
    return sorted(names) if all(isinstance(one, str) and one in names for one in values) else []


def _refuse_pointer(path: Path) -> None:
    if path.stat().st_size > _POINTER_BYTES:
        return
    with path.open("rb") as file:
        is_pointer = file.read(len(_POINTER)) == _POINTER
    if is_pointer:
        raise LauncherError(
            f"{path}: is a pointer of Git LFS, not the file itself; run `git lfs pull` where it is from"
        )


def _require_objects(folder: Path, names: Iterable[str]) -> None:
    for name in names:
        if (folder / name).is_file():
            _read_object(folder / name)


def _read_object(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise LauncherError(f"{path}: is not JSON ({error}); copy it again") from None
    if not isinstance(content, dict):
        raise LauncherError(f"{path}: is no JSON object; copy it again")
    return content
