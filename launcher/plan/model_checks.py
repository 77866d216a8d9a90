"""Models, adapters and tokenizers that a recipe starts from: are they there, and do they belong together?"""

import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from launcher.artifacts.adapter_folder import AdapterFolder, is_credentialed, read_adapter
from launcher.artifacts.chat_template import find_template_fault
from launcher.artifacts.model_config import why_not_causal
from launcher.artifacts.model_folder import CONFIG, require_files
from launcher.artifacts.positions import max_positions, missing_positions, missing_scoring_positions
from launcher.artifacts.tokenizer_manifest import EXPANSION
from launcher.errors import Fault, FaultCode, LauncherError
from launcher.plan.cost import corpus_sizes
from launcher.plan.model_shape import model_config, read_json, wrong_expansion, wrong_size
from launcher.plan.recipe_at_site import RecipeAtSite, suggest
from launcher.recipe.base import AdapterInput, Input
from launcher.run.files import unwritable_folder
from launcher.run.paths import RunDir
from launcher.run.record import RunRecord, was_rehearsed

_OF_TOKENIZER = re.compile(r"(tokenizer|vocab|spiece).*|.*\.(model|tiktoken)")
"""Names of files that a tokenizer can be loaded from."""
HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*", re.ASCII)
"""A name on the Hugging Face Hub."""


def check_models(here: RecipeAtSite) -> Iterator[Fault]:
    """Look for models, adapters and tokenizers, and for the terms of the data that they were made of."""
    for one in here.inputs("model", "adapter", "tokenizer"):
        if one.name not in here.pending:
            yield from _missing(here, one) or _unusable(here, one)
        if here.recipe.data_use == "open" and _is_credentialed(here, one):
            message = f"`{one.name}` was made of credentialed data; write `data_use: credentialed`"
            yield here.fault("data-use", one.key, message)


def _missing(here: RecipeAtSite, one: Input) -> list[Fault]:
    folder, root = here.model(one.name), here.root(here.cluster.roots.models)
    if folder.is_absolute() and not here.site.once(os.path.isdir, folder):
        return [here.fault("not-found", one.key, f"there is no folder `{folder}`; check the name")]
    if not folder.is_absolute() and not HUB_ID.fullmatch(one.name):
        fix = suggest(one.name, root) or "put it there, or write a Hugging Face id such as `org/name`"
        return [here.fault("not-found", one.key, f"`{one.name}` is not below `{root}`; {fix}")]
    if one.format == "expansion" and here.site.once(os.path.isdir, folder) and read_json(folder / EXPANSION) is None:
        message = f"`{one.name}` has no {EXPANSION}; name a tokenizer that a `vocabulary` recipe made"
        return [here.fault("mismatch", one.key, message)]
    if one.format == "expansion" and (wrong := wrong_expansion(read_json(folder / EXPANSION) or {})):
        return [here.fault("damaged", one.key, f"{folder / EXPANSION}: {wrong}; make the tokenizer again")]
    if folder.is_absolute() and (lack := here.site.once(_nothing_of_type, folder, one.type)):
        return [here.fault("not-found", one.key, lack)]
    return []


def _nothing_of_type(folder: Path, what: str) -> str | None:
    """Say that a folder holds no model, or no tokenizer; None if it does, or this user may not look."""
    names = os.listdir(folder) if os.access(folder, os.R_OK | os.X_OK) else None
    if names is not None and what == "model" and CONFIG not in names:
        return f"`{folder}` holds no model ({CONFIG} is missing); check the name"
    if names is not None and what == "tokenizer" and not any(map(_OF_TOKENIZER.fullmatch, names)):
        return f"`{folder}` holds no tokenizer (no tokenizer.json, tokenizer.model or vocabulary); check the name"
    return None


def _unusable(here: RecipeAtSite, one: Input) -> list[Fault]:
    """Look at the files of a folder; `check_adapters` looks at those of adapters with a base."""
    folder, recipe = here.model(one.name), here.recipe
    if isinstance(one, AdapterInput) or not here.site.once(os.path.isdir, folder):
        return []
    is_read = one.type == "model" and not (recipe.trains and recipe.model.init == "random")
    if damage := here.site.once(_damage, folder, one.type == "adapter", is_read):
        return [here.fault(damage[0], one.key, damage[1])]
    config = (read_json(folder / CONFIG) or {}) if one.type == "model" else {}
    if wrong := wrong_size(config):
        return [here.fault("damaged", one.key, f"{folder / CONFIG}: {wrong}; copy it again")]
    if one.format == "causal" and (why := why_not_causal(config)):
        return [here.fault("mismatch", one.key, f"`{one.name}` {why}")]
    return []


def _damage(folder: Path, is_adapter: bool, has_weights: bool) -> tuple[FaultCode, str] | None:
    """Say why a folder cannot be loaded; None if it can."""
    try:
        if is_adapter:
            read_adapter(folder)
        else:
            require_files(folder, weights=has_weights)
    except PermissionError as error:
        return "no-permission", f"permission denied for `{error.filename}`: ask its owner for access"
    except LauncherError as error:
        return "damaged", str(error)
    return None


def _is_credentialed(here: RecipeAtSite, one: Input) -> bool:
    folder = here.model(one.name)
    if one.name in here.pending:
        return here.pending[one.name] == "credentialed"
    if one.type == "tokenizer":  # that of a model is as open as it was before the model was trained
        return (here.site.once(read_json, folder / EXPANSION) or {}).get("data_use") == "credentialed"
    return here.site.once(is_credentialed, folder)


def check_adapters(here: RecipeAtSite) -> Iterator[Fault]:
    """Open the adapters that are on this site: do they go with the base, and with those before them?"""
    found = [one for one in here.inputs("adapter") if isinstance(one, AdapterInput)]
    yield from _check_chain(here, [one for one in found if not one.is_alone])
    for one in found:
        if one.is_alone:
            yield from _check_chain(here, [one])


def _check_chain(here: RecipeAtSite, adapters: Sequence[AdapterInput]) -> Iterator[Fault]:
    """Look at adapters of one base, which are applied one after the other."""
    earlier: list[AdapterFolder] = []
    for place, one in enumerate(adapters):
        folder = here.model(one.name)
        if one.name in here.pending or not here.site.once(os.path.isdir, folder):
            continue
        try:
            adapter = here.site.once(read_adapter, folder)
            earlier.append(adapter)
            _require_usable(here, one, adapter)
            adapter.require_base(one.base, str(here.model(one.base)), one.trained_on)
            if len(earlier) > place:  # all before it are here
                adapter.require_base_adapters(None if one.is_alone else earlier[:-1])
        except LauncherError as error:
            yield here.fault("mismatch", one.key, str(error))


def _require_usable(here: RecipeAtSite, one: AdapterInput, adapter: AdapterFolder) -> None:
    if one.is_alone:
        adapter.require_reward_head()
    elif here.recipe.foreign_engine:
        adapter.require_plain_lora(here.recipe.foreign_engine)
    elif one.merged is None:
        adapter.require_stackable()
    elif one.merged != "if possible":
        adapter.require_mergeable(one.merged)


def check_output(here: RecipeAtSite) -> Iterator[Fault]:
    """Refuse the name of a model that exists, though a rehearsal's gives way, and one that may not be given."""
    recipe = here.recipe
    if not recipe.trains or not recipe.output:
        return
    link = here.locations.folder("model", recipe.output)
    if os.path.isdir(link.parent) and (closed := here.site.once(unwritable_folder, link)):
        message = f"permission denied for `{closed}`, where the model gets this name: ask its owner for access"
        yield here.fault("no-permission", "output", f"{message}, or leave `output` out")
    elif link.exists() and not was_rehearsed(link) and not (recipe.search and _is_of_search(link, recipe.name)):
        message = f"there is a model `{recipe.output}` already; write another name, or remove it"
        yield here.fault("name-taken", "output", message)


def _is_of_search(link: Path, name: str) -> bool:
    """Tell whether a name is that of the best trial of a search so far."""
    record = RunDir(link.resolve().parents[1]).record
    return link.is_symlink() and record.is_file() and RunRecord.read(record).sweep == name


def check_lengths(here: RecipeAtSite) -> Iterator[Fault]:
    """Compare the length of sequences, with what an adapter puts before them, with the positions of the model."""
    recipe = here.recipe
    if not recipe.trains:
        return
    positions = max_positions(model_config(recipe, here) or {})
    if message := missing_positions(recipe.batch.sequence_length, recipe.virtual_tokens, positions):
        yield here.fault("mismatch", "batch.sequence_length", message)
    for one in here.inputs("model"):
        if one.name in recipe.scoring_models and one.key != "model.path":
            positions = max_positions(here.config(one.name) or {})
            if message := missing_scoring_positions(one.name, positions, recipe.batch.sequence_length):
                yield here.fault("mismatch", one.key, message)


def check_schedule(here: RecipeAtSite) -> Iterator[Fault]:
    """Refuse a training that would learn nothing from the corpora that are on this site."""
    recipe = here.recipe
    sizes = corpus_sizes(recipe, here) if recipe.trains else None
    if recipe.trains and sizes and (fault := recipe.find_too_little(recipe.samples_in_epoch(sizes))):
        key, _, message = fault.partition(": ")
        yield here.fault("conflict", key, message)


def check_chat_template(here: RecipeAtSite) -> Iterator[Fault]:
    """Refuse a chat template that cannot work with the tokenizer, if that is on this site."""
    recipe = here.recipe
    if not recipe.trains or recipe.chat_template is None:
        return
    folder = here.found(recipe.model.tokenizer_path)
    if folder is None or not here.site.once(os.path.isdir, folder):
        return
    if message := here.site.once(find_template_fault, folder, recipe.chat_template):
        yield here.fault("mismatch", "data.chat_template", message)
