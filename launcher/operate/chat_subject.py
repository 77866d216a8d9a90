"""What `launcher chat RUN|MODEL` means: weights, adapters, chat template and system prompt, found without loading."""

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeAlias

from pydantic import ValidationError

from launcher.artifacts.adapter_folder import CONFIG as ADAPTER_CONFIG
from launcher.artifacts.adapter_folder import AdapterFolder, is_credentialed, read_adapter
from launcher.artifacts.model_folder import CONFIG
from launcher.cluster import Cluster
from launcher.errors import LauncherError, RunError
from launcher.monitor.find import find_run, run_id
from launcher.recipe import Recipe, read_recipe
from launcher.recipe.sections.chat import NO_ADAPTER, ChatSetup, ChatSubject
from launcher.recipe.sections.chat_sources import Template
from launcher.recipe.sections.common import Resources
from launcher.recipe.sections.evaluated_model import EvaluatedModel
from launcher.recipe.sections.generation import Decoding
from launcher.run.home import expand_home
from launcher.run.paths import RunDir, expand, locate
from launcher.run.record import RunRecord

Dtype: TypeAlias = Literal["bf16", "fp16", "fp32"]

_HUB = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")


@dataclass(frozen=True)
class SubjectOptions:
    """What the user may say about the model besides its name."""

    adapters: Sequence[str] = ()
    """Further adapters to choose from."""
    template: Template | None = None
    dtype: Dtype | None = None
    base: str | None = None
    """The model that an adapter belongs to, where its own files do not lead to it."""


@dataclass(frozen=True)
class FoundSubject:
    """A model to talk to, and what its recipe says besides."""

    subject: ChatSubject
    decoding: Decoding
    seed: int | None = None
    resources: Resources | None = None


@dataclass(frozen=True)
class _Stack:
    """A model and the adapters on it."""

    base: str
    adapters: tuple[str, ...] = ()


def find_subject(target: str, cluster: Cluster, options: SubjectOptions) -> FoundSubject:
    """Find what a run made or used, or a model.

    Args:
        target: A folder, a name below `roots.models`, a run as `launcher.monitor.find.find_run` understands it, or a
            Hugging Face id. A model's name comes first.
        cluster: Where to look.
        options: What else the user said.

    Raises:
        LauncherError: there is no such thing, it writes no text, or options do not fit it.
    """
    folder = _model_folder(target, cluster)
    run = _run_of(folder) if folder else None
    if folder is None and not _HUB.fullmatch(target):
        run = _named_run(target, cluster)
    if folder is None and run is None and os.path.isfile(Path(target) / "run.json"):
        run = RunDir(Path(target).absolute())
    try:
        found = _of_run(run, cluster) if run else _of_model(target, folder, cluster, options)
        return _with_options(found, cluster, options)
    except ValidationError as error:
        raise LauncherError(f"`{target}`: {error.errors()[0]['msg'].removeprefix('Value error, ')}") from None


def _named_run(target: str, cluster: Cluster) -> RunDir:
    try:
        return find_run(cluster, target)
    except RunError as error:
        models = expand(cluster.roots.models)
        raise RunError(f"{error}. Nor is there a model `{target}` below `{models}`") from None


def _model_folder(target: str, cluster: Cluster) -> Path | None:
    """Return the folder of a model or an adapter that a name or path leads to."""
    places = [expand(cluster.roots.models) / target]
    if "/" in target:
        places.append(expand_home(target).absolute())
    return next((place for place in places if _is_model(place)), None)


def _is_model(folder: Path) -> bool:
    return any(os.path.isfile(folder / name) for name in (CONFIG, ADAPTER_CONFIG))


def _run_of(folder: Path) -> RunDir | None:
    """Return the run whose export a folder is, by its name or by a link to it."""
    real = folder.resolve()
    run = RunDir(real.parents[1]) if len(real.parents) > 1 else None
    return run if run and real == (run.outputs / "model").resolve() and run.record.is_file() else None


def _of_run(run: RunDir, cluster: Cluster) -> FoundSubject:
    recipe, record = read_recipe(run.recipe.read_text(encoding="utf-8")), RunRecord.read(run.record)
    setup = recipe.chat
    if setup is None:
        raise RunError(
            f"`{run.root.name}` is of kind `{recipe.kind}`, and has no model that writes text; name a run that trains, "
            "merges or uses a language model, or a model"
        )
    locate_model = record.locations.model
    base = locate_model(setup.model.path)
    if setup.makes_model:
        stack = _stack_of(_export(run, recipe), cluster, record.recipe_folder, base)
    else:
        stack = _Stack(base, tuple(locate_model(one.path) for one in setup.model.adapters))
    tokenizer = setup.model.tokenizer and locate_model(setup.model.tokenizer)
    subject = _subject(record.name, setup, stack, tokenizer, recipe.data_use == "credentialed")
    return FoundSubject(subject, setup.decoding, recipe.seed, recipe.resources)


def _export(run: RunDir, recipe: Recipe) -> Path:
    places = [run.outputs / "model"]
    if recipe.makes:
        places.append(RunRecord.read(run.record).locations.folder("model", recipe.makes.name))
    found = next((place for place in places if _is_model(place)), None)
    if found is None:
        raise RunError(
            f"`{run.root.name}` has no model yet, which it makes when it finishes; `launcher status {run_id(run)}` "
            "shows how far it is"
        )
    return found


def _of_model(target: str, folder: Path | None, cluster: Cluster, options: SubjectOptions) -> FoundSubject:
    stack = _Stack(target) if folder is None else _stack_of(folder, cluster, str(folder.parent), options.base)
    on_gpu = cluster.gpus.device == "cuda"
    name = Path(target).name if folder else target
    setup = ChatSetup(model=EvaluatedModel(path=name, dtype="bf16" if on_gpu else "fp32"), makes_model=True)
    return FoundSubject(_subject(name, setup, stack, None, False), setup.decoding)


def _subject(
    title: str, setup: ChatSetup, stack: _Stack, tokenizer: str | None, is_credentialed_run: bool
) -> ChatSubject:
    closed = is_credentialed_run or _is_any_credentialed((stack.base, *stack.adapters))
    choices: dict[str, tuple[str, ...]] = {NO_ADAPTER: ()}
    if stack.adapters:
        choices[title] = stack.adapters
    return ChatSubject(
        title=title,
        model=setup.model,
        base=stack.base,
        tokenizer=tokenizer,
        adapters=choices,
        choice=[*choices][-1],
        template=setup.template,
        system_prompt=setup.system_prompt,
        data_use="credentialed" if closed else "open",
    )


def _is_any_credentialed(folders: Sequence[str]) -> bool:
    return any(is_credentialed(Path(folder)) for folder in folders)


def _stack_of(folder: Path, cluster: Cluster, beside: str, base: str | None) -> _Stack:
    """Read what a folder of weights or of an adapter needs below it."""
    if not (folder / ADAPTER_CONFIG).is_file():
        return _Stack(str(folder))
    adapter = read_adapter(folder)
    earlier = []
    for entry in adapter.manifest.get("beneath", []):
        inside = entry.get("folder")
        earlier.append(str(folder / inside) if inside else locate(entry["path"], cluster.roots.models, beside))
    named = _Stack(locate(base, cluster.roots.models, os.getcwd())) if base else None
    return _Stack(named.base if named else _base_of(adapter, cluster, beside), (*earlier, str(folder)))


def _base_of(adapter: AdapterFolder, cluster: Cluster, beside: str) -> str:
    """Find the model that an adapter was trained on: at its place, else below `roots.models`, else on the Hub."""
    for name in adapter.base_names:
        for one in (name, Path(name).name):
            if Path(located := locate(one, cluster.roots.models, beside)).is_dir():
                return located
    hub = next((name for name in adapter.base_names if _HUB.fullmatch(name)), None)
    if hub is None:
        said = f"`{adapter.base_names[0]}`" if adapter.base_names else "a model that its files do not name"
        raise LauncherError(
            f"`{adapter.folder}` is an adapter of {said}, which was not found; name that model with `--base`"
        )
    return hub


def _with_options(found: FoundSubject, cluster: Cluster, options: SubjectOptions) -> FoundSubject:
    subject = found.subject
    changes: dict[str, Any] = {"adapters": dict(subject.adapters)}
    for name in options.adapters:
        title, stack = _adapter(name, subject, cluster)
        if title in changes["adapters"]:
            raise LauncherError(f"--adapter {name}: `{title}` is named twice; leave one out")
        changes["adapters"][title] = stack.adapters
        if _is_any_credentialed(stack.adapters):
            changes["data_use"] = "credentialed"
    if options.template:
        changes["template"] = options.template
    if options.dtype:
        changes["model"] = EvaluatedModel.model_validate({**subject.model.model_dump(), "dtype": options.dtype})
    changed = ChatSubject.model_validate({**dict(subject), **changes})
    return FoundSubject(changed, found.decoding, found.seed, found.resources)


def _adapter(name: str, subject: ChatSubject, cluster: Cluster) -> tuple[str, _Stack]:
    folder = _model_folder(name, cluster)
    title = Path(name).name
    if folder is None:
        run = _named_run(name, cluster)
        folder, title = run.outputs / "model", RunRecord.read(run.record).name
    if not (folder / ADAPTER_CONFIG).is_file():
        raise LauncherError(f"--adapter {name}: `{folder}` is not an adapter ({ADAPTER_CONFIG} is missing)")
    stack = _stack_of(folder, cluster, str(folder.parent), subject.base)
    try:
        read_adapter(folder).require_base(subject.model.path, subject.base, None)
    except LauncherError as error:
        said = str(error).partition(", and the base")[0]
        raise LauncherError(f"--adapter {name}: {said}, not on `{subject.base}`; name another") from None
    return title, stack
