"""Adapter folders as peft writes them, read without peft: what they adapt, and whether that can be merged."""

import hashlib
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import Any, Literal

from launcher.errors import LauncherError
from launcher.expansion import EXPANSION

CONFIG = "adapter_config.json"
WEIGHTS = "adapter_model.safetensors"
MANIFEST = "manifest.json"
"""In which an export says what it was made of."""

MOLORA = "MOLORA"
"""What our mixtures of LoRAs call themselves: LoRA on attention, routed experts elsewhere."""

_BESIDE_THE_WEIGHTS = {
    "PREFIX_TUNING": "prefix tuning",
    "PROMPT_TUNING": "prompt tuning",
    "MULTITASK_PROMPT_TUNING": "prompt tuning",
    "P_TUNING": "p-tuning",
    "CPT": "context-aware prompt tuning",
    "CARTRIDGE": "a cartridge",
    "ADAPTION_PROMPT": "adaption prompts",
    "XLORA": "X-LoRA",
    "POLY": "Poly",
    "SHADOW": "ShadowPEFT",
}
"""Methods that put something between the layers or choose by the input: no weights of the base do the same."""


_SUMS = (True, None, "gaussian", "orthogonal", "eva")
"""Initialisations of LoRA that leave the weights of the base as they are."""


@dataclass(frozen=True)
class AdapterFolder:
    """An adapter on disk."""

    folder: Path
    config: dict[str, Any]
    manifest: dict[str, Any]
    """Of the export; empty where somebody else made the adapter."""

    @property
    def base_names(self) -> list[str]:
        """What the adapter calls the model that it was trained on."""
        names = (self.config.get("base_model_name_or_path"), self.manifest.get("base_model"))
        return [name for name in names if isinstance(name, str) and name]

    def require_mergeable(self, only: Literal["all", "attention"] = "all") -> None:
        """Refuse methods of which no merged model exists.

        Args:
            only: Which part of the adapter is to be merged.

        Raises:
            LauncherError: it is such a method.
        """
        method = self.config.get("peft_type")
        if method == MOLORA and only == "all":
            raise LauncherError(
                f"`{self.folder.name}` is a mixture of LoRAs: experts are chosen by the input and cannot be merged; "
                "write `only: attention` to merge what it has there"
            )
        name = _BESIDE_THE_WEIGHTS.get(str(method))
        if self.config.get("alora_invocation_tokens"):
            name = "activated LoRA"
        if name:
            raise LauncherError(
                f"`{self.folder.name}` is {name}, which works beside the weights and cannot be merged into them; load "
                "it with peft beside its base"
            )
        task = self.config.get("task_type")
        if task not in (None, "CAUSAL_LM"):
            raise LauncherError(
                f"`{self.folder.name}` is an adapter for `{task}`; only those of causal language models can be merged"
            )

    def require_stackable(self) -> None:
        """Refuse an adapter that is not simply added to weights, and so cannot be active together with others.

        Raises:
            LauncherError: it is something else than LoRA, or a kind of it that depends on what else there is.
        """
        found = self._obstacle()
        if found:
            raise LauncherError(
                f"`{self.folder.name}` {found}, which cannot be active together with another adapter; merge it into "
                "the model first (kind `merge`)"
            )

    def _obstacle(self) -> str | None:
        config = self.config
        if config.get("peft_type") != "LORA":
            return f"is `{config.get('peft_type')}`, not LoRA"
        if config.get("task_type") not in (None, "CAUSAL_LM"):
            return f"is an adapter for `{config['task_type']}`"
        if config.get("use_dora"):
            return "scales weights (DoRA)"
        if config.get("init_lora_weights") not in _SUMS:
            return f"changes the model's weights (`{config['init_lora_weights']}`)"
        if config.get("bias", "none") != "none":
            return "holds biases"
        whole = [key for key in ("modules_to_save", "trainable_token_indices") if config.get(key)]
        return f"holds more than LoRA (`{whole[0]}`)" if whole else None

    def require_beneath(self, earlier: Sequence["AdapterFolder"]) -> None:
        """Refuse an adapter without those that it was trained on top of: it says nothing without them.

        Args:
            earlier: Adapters that come before it.

        Raises:
            LauncherError: one is missing, or is not the very one.
        """
        wanted = self._beneath()
        had = {adapter.digest for adapter in earlier} if wanted else set()
        for entry in wanted:
            if entry["sha256"] not in had:
                inside = entry.get("folder")
                which = f"`{inside}` in the same folder, where its training went on" if inside else "that one"
                raise LauncherError(
                    f"`{self.folder.name}` was trained on top of the adapter `{entry['path']}`; name {which}, before it"
                )

    def _beneath(self) -> list[dict[str, Any]]:
        """What the manifest says of adapters below; one that was trained further lies in a folder of its own there."""
        entries: list[dict[str, Any]] = [entry for entry in self.manifest.get("beneath", []) if "sha256" in entry]
        for place, entry in enumerate(entries):
            if not (self.folder / MANIFEST).is_file() and entry.get("folder") == self.folder.name:
                return entries[:place]
        return entries

    @property
    def digest(self) -> str:
        """SHA-256 of the weights."""
        with (self.folder / WEIGHTS).open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()

    def require_base(self, name: str, located: str, trained_on: str | None) -> None:
        """Refuse an adapter that was trained on another model.

        Args:
            name: The base as the recipe names it.
            located: Its folder, or its Hugging Face id.
            trained_on: What the recipe says that the adapter calls it.

        Raises:
            LauncherError: it names another base.
        """
        theirs = self.base_names
        if trained_on in theirs or not theirs or any(_is_same(one, name, located) for one in theirs):
            return
        said = f", not on `{trained_on}`" if trained_on else ""
        raise LauncherError(
            f"`{self.folder.name}` was trained on `{theirs[0]}`{said}, and the base here is `{name}`; name its base, "
            f"or write `trained_on: {theirs[0]}` if both are the same model"
        )


def read_adapter(folder: Path) -> AdapterFolder:
    """Read what an adapter says of itself.

    Raises:
        LauncherError: there is none, or its weights are a pickle.
    """
    config = read_object(folder / CONFIG)
    if config is None:
        inside = sorted(path.parent.name for path in folder.glob(f"*/{CONFIG}"))
        hint = f"it has {', '.join(f'`{name}`' for name in inside)} in it; name one" if inside else "check the name"
        raise LauncherError(f"`{folder}` is no adapter ({CONFIG} is missing); {hint}")
    if not (folder / WEIGHTS).is_file():
        raise LauncherError(
            f"`{folder}` has no {WEIGHTS}; save it again with `safe_serialization=True` if it has `.bin` files, which "
            "are never read: they can run code"
        )
    return AdapterFolder(folder, config, _manifest(folder))


def is_credentialed(folder: Path) -> bool:
    """Tell whether what is in a folder was made of credentialed data, as it says itself."""
    said = (_manifest(folder), read_object(folder / EXPANSION) or {})
    return any(one.get("data_use") == "credentialed" for one in said)


def _manifest(folder: Path) -> dict[str, Any]:
    """The manifest of an export; several adapters of one export lie in folders below it."""
    is_one_of_several = (folder / CONFIG).is_file() and not (folder / MANIFEST).is_file()
    return read_object((folder.parent if is_one_of_several else folder) / MANIFEST) or {}


def read_object(path: Path) -> dict[str, Any] | None:
    """Read a JSON object, or None if there is none."""
    try:
        content = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return None
    return content if isinstance(content, dict) else None


def _is_same(theirs: str, name: str, located: str) -> bool:
    return theirs == name or os.path.realpath(theirs) == os.path.realpath(located) or _names_agree(_id(theirs), name)


def _names_agree(theirs: str, ours: str) -> bool:
    """Two Hugging Face ids have to be equal; of a path, the end: folders lie elsewhere on every site."""
    if all(len(PurePath(name).parts) == 2 and not name.startswith(("/", ".")) for name in (theirs, ours)):
        return theirs == ours
    return PurePath(theirs).name == PurePath(ours).name


def _id(name: str) -> str:
    """The Hugging Face id of a model in the Hub's cache (`models--org--name/snapshots/HASH`); else the name."""
    for part in PurePath(name).parts:
        if part.startswith("models--"):
            return part.removeprefix("models--").replace("--", "/")
    return name
