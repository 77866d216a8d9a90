"""Adapter folders as peft writes them, read without peft: what they adapt, and whether that can be merged."""

import hashlib
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import Any, Literal

from launcher.artifacts.data_use import find_credentialed
from launcher.artifacts.model_folder import ADAPTER_CONFIG, require_whole
from launcher.artifacts.tokenizer_manifest import EXPANSION
from launcher.errors import LauncherError

CONFIG = ADAPTER_CONFIG
WEIGHTS = "adapter_model.safetensors"
MANIFEST = "manifest.json"
"""In which an export says what it was made from."""

MOLORA = "MOLORA"
"""`peft_type` of our mixtures of LoRAs: LoRA on attention, routed experts elsewhere."""

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
"""Methods that add something between the layers or choose by the input, which no change of weights can replace."""


_SUMS = (True, None, "gaussian", "orthogonal", "eva")
"""Initialisations of LoRA that leave the weights of the base as they are."""
_BEYOND_LORA = ("alora_invocation_tokens", "layer_replication", "lora_bias", "use_bdlora", "use_qalora")
"""Keys of peft's LoRA that turn it into another method."""


@dataclass(frozen=True)
class AdapterFolder:
    """An adapter on disk."""

    folder: Path
    config: dict[str, Any]
    manifest: dict[str, Any]
    """That of the export; empty if the launcher did not make the adapter."""

    @property
    def base_names(self) -> list[str]:
        """Names of the model that the adapter was trained on."""
        names = (self.config.get("base_model_name_or_path"), self.manifest.get("base_model"))
        return [name for name in names if isinstance(name, str) and name]

    @property
    def head(self) -> dict[str, Any]:
        """Names of the classes of its head, and the type of the problem; empty if its manifest does not say them."""
        said = self.manifest.get("head")
        return said if isinstance(said, dict) else {}

    @property
    def is_beside_weights(self) -> bool:
        """Whether it adds something between the layers or before the text, and changes no weights."""
        return str(self.config.get("peft_type")) in _BESIDE_THE_WEIGHTS

    def require_mergeable(self, only: Literal["all", "attention", "with head"] = "all") -> None:
        """Refuse methods that cannot be merged into weights.

        Args:
            only: Which part of the adapter is to be merged; `with head`: all, and it may be one of a classifier.

        Raises:
            LauncherError: it uses such a method.
        """
        method = self.config.get("peft_type")
        if method == MOLORA and only != "attention":
            raise LauncherError(
                f"`{self.folder.name}` is a mixture of LoRAs: experts are chosen by the input and cannot be merged; "
                "write `only: attention` to merge its adapters of attention"
            )
        name = _BESIDE_THE_WEIGHTS.get(str(method))
        if self.config.get("alora_invocation_tokens"):
            name = "activated LoRA"
        if name:
            raise LauncherError(
                f"`{self.folder.name}` is {name}, which changes no weights and cannot be merged; load it with "
                "peft on top of its base"
            )
        task = self.config.get("task_type")
        if task not in (None, "CAUSAL_LM", *(["SEQ_CLS"] if only == "with head" else [])):
            fix = "; `kind: export` merges one with a head" if task == "SEQ_CLS" else ""
            raise LauncherError(
                f"`{self.folder.name}` is an adapter for `{task}`; only those of causal language models can be merged"
                f"{fix}"
            )

    def require_reward_head(self) -> None:
        """Refuse an adapter that makes no reward model of a language model.

        Raises:
            LauncherError: it has no head, or one that does not find the end of a text.
        """
        if self.config.get("task_type") != "SEQ_CLS":
            raise LauncherError(f"`{self.folder.name}` has no head that rewards; name the export of a `reward` run")
        method = str(self.config.get("peft_type"))
        if self.is_beside_weights and method != "PREFIX_TUNING":
            raise LauncherError(
                f"`{self.folder.name}` is {_BESIDE_THE_WEIGHTS[method]}, with which a head does not find the end of a "
                "text; train a reward model with `method: lora` or `prefix`"
            )

    def require_stackable(self) -> None:
        """Refuse an adapter that does more than add to weights: it cannot be active together with others.

        Raises:
            LauncherError: it is not LoRA, or a variant that changes or replaces weights.
        """
        found = self._obstacle()
        if found:
            raise LauncherError(
                f"`{self.folder.name}` {found}, which cannot be active together with another adapter; merge it into "
                "the model first (kind `merge`)"
            )

    def require_plain_lora(self, engine: str) -> None:
        """Refuse an adapter that is more than LoRA.

        Args:
            engine: What is to apply it, for the message.

        Raises:
            LauncherError: it is not LoRA, or a variant that changes or replaces weights or depends on the text.
        """
        more = [key for key in _BEYOND_LORA if self.config.get(key)]
        found = self._obstacle() or (f"holds more than LoRA (`{more[0]}`)" if more else None)
        if found:
            raise LauncherError(
                f"`{self.folder.name}` {found}, which {engine} does not apply; merge it into the model first "
                "(`kind: merge`), or write `engine: transformers`"
            )

    @property
    def rank(self) -> int:
        """The highest rank that LoRA has in some layer."""
        ranks = (self.config["r"], *(self.config.get("rank_pattern") or {}).values())
        return int(max(ranks))

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

    def require_base_adapters(self, earlier: Sequence["AdapterFolder"] | None) -> None:
        """Refuse an adapter without its base adapters, those that it was trained on top of.

        Args:
            earlier: Adapters that come before it; None: the recipe has no place for any.

        Raises:
            LauncherError: one is missing, or another one is in its place.
        """
        wanted = self._base_adapters()
        had = {adapter.digest for adapter in earlier or ()} if wanted else set()
        for entry in wanted:
            if entry["sha256"] not in had:
                inside = entry.get("folder")
                which = f"`{inside}` in the same folder, which was trained further," if inside else "that one"
                fix = f"name {which} before it"
                if earlier is None:
                    fix = "make one model of its base and both adapters (`kind: export`), and name that"
                raise LauncherError(f"`{self.folder.name}` was trained on top of the adapter `{entry['path']}`; {fix}")

    def _base_adapters(self) -> list[dict[str, Any]]:
        # One that was trained further is exported too, in a folder of its own next to this one.
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
            trained_on: The base that the adapter names, as the recipe says.

        Raises:
            LauncherError: it names another base.
        """
        theirs = self.base_names
        if trained_on in theirs or not theirs or any(_is_same(one, name, located) for one in theirs):
            return
        said = f", not on `{trained_on}`" if trained_on else ""
        raise LauncherError(
            f"`{self.folder.name}` was trained on `{theirs[0]}`{said}, and the base of the recipe is `{name}`; "
            f"name its base, or write `trained_on: {theirs[0]}` if both are the same model"
        )


def read_adapter(folder: Path) -> AdapterFolder:
    """Read the configuration and the manifest of an adapter.

    Raises:
        LauncherError: there is none, or its weights are damaged or not in safetensors.
    """
    config = read_object(folder / CONFIG)
    if config is None:
        inside = sorted(path.parent.name for path in folder.glob(f"*/{CONFIG}"))
        fix = f"name one of those in it: {', '.join(f'`{name}`' for name in inside)}" if inside else "check the name"
        raise LauncherError(f"`{folder}` is not an adapter ({CONFIG} is missing); {fix}")
    if not (folder / WEIGHTS).is_file():
        raise LauncherError(
            f"`{folder}` has no {WEIGHTS}; if it has `.bin` files, which can run code and are never read, save it "
            "again with `safe_serialization=True`"
        )
    require_whole(folder / WEIGHTS)
    return AdapterFolder(folder, config, _manifest(folder))


def is_credentialed(folder: Path) -> bool:
    """Tell whether a folder, or the run that it lies in, says that it was made of credentialed data."""
    said = (_manifest(folder), read_object(folder / EXPANSION) or {})
    if any(one.get("data_use") == "credentialed" for one in said):
        return True
    return folder.is_absolute() and find_credentialed([folder / CONFIG]) is not None


def _manifest(folder: Path) -> dict[str, Any]:
    # Several adapters of one export lie in folders below its manifest.
    is_one_of_several = (folder / CONFIG).is_file() and not (folder / MANIFEST).is_file()
    return read_object((folder.parent if is_one_of_several else folder) / MANIFEST) or {}


def read_object(path: Path) -> dict[str, Any] | None:
    """Read a JSON object, or None if there is none."""
    try:
        content = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError):
        return None
    return content if isinstance(content, dict) else None


def _is_same(theirs: str, name: str, located: str) -> bool:
    return theirs == name or os.path.realpath(theirs) == os.path.realpath(located) or _names_agree(_id(theirs), name)


def _names_agree(theirs: str, ours: str) -> bool:
    # Hugging Face ids must be equal; of paths only the last part, since each site has other folders.
    if all(len(PurePath(name).parts) == 2 and not name.startswith(("/", ".")) for name in (theirs, ours)):
        return theirs == ours
    return PurePath(theirs).name == PurePath(ours).name


def _id(name: str) -> str:
    """The Hugging Face id of a model in the Hub's cache (`models--org--name/snapshots/HASH`); else the name."""
    for part in PurePath(name).parts:
        if part.startswith("models--"):
            return part.removeprefix("models--").replace("--", "/")
    return name
