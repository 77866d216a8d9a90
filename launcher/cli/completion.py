"""What a shell offers when Tab is pressed: runs, stages, recipe files, keys and profiles that exist.

Each function gets what has been typed of the word and returns the words that continue it. A fault of the site offers
nothing: an error would land in the middle of the line that somebody types.
"""

import contextlib
import os
import re
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

import typer

if TYPE_CHECKING:
    from pydantic import BaseModel

    from launcher.cluster import Cluster


def complete_runs(context: typer.Context, incomplete: str) -> list[str]:
    """Offer run directories' names, newest first, the names of recipes that have runs, and pipelines."""
    with _quietly():
        from launcher.monitor.find import FOLDER, list_runs
        from launcher.pipeline.find import list_pipelines
        from launcher.run.paths import expand

        cluster = _cluster(context)
        folders = [run.root.name for run in list_runs(cluster)]
        names = [match["slug"] for match in map(FOLDER.match, folders) if match]
        pipelines = [pipeline.record.name for pipeline in list_pipelines(expand(cluster.roots.runs))]
        return _that_continue(incomplete, (*names, *pipelines, *folders))
    return []


def complete_stages(context: typer.Context, incomplete: str) -> list[str]:
    """Offer the stages of the pipeline that the line names."""
    with _quietly():
        from launcher.pipeline.find import find_pipeline

        pipeline = find_pipeline(_cluster(context), str(context.params.get("run") or ""))
        return _that_continue(incomplete, [stage.name for stage in pipeline.record.stages] if pipeline else [])
    return []


def complete_recipes_and_runs(context: typer.Context, incomplete: str) -> list[str]:
    """Offer what a command takes that works on files and on what was submitted."""
    return [*complete_recipes(incomplete), *complete_runs(context, incomplete)]


def complete_recipes(incomplete: str) -> list[str]:
    """Offer YAML files and folders."""
    with _quietly():
        typed, beginning = os.path.split(incomplete)
        with os.scandir(os.path.expanduser(typed) or ".") as entries:
            found = sorted(
                os.path.join(typed, entry.name + "/" * entry.is_dir())
                for entry in entries
                if (entry.is_dir() or entry.name.endswith((".yaml", ".yml")))
                and (beginning.startswith(".") or not entry.name.startswith("."))
            )
        return _that_continue(incomplete, found)
    return []


def complete_profiles(incomplete: str) -> list[str]:
    """Offer the cluster profiles that have a name, and YAML files."""
    with _quietly():
        from launcher.load.profile import profile_folders

        named = sorted({path.stem for folder in profile_folders() for path in folder.glob("*.yaml")})
        return _that_continue(incomplete, (*named, *complete_recipes(incomplete)))
    return []


def complete_keys(incomplete: str) -> list[str]:
    """Offer `key=` for the keys that the kinds of the named recipes have; `optim.` offers those of the section."""
    with _quietly():
        from launcher.recipe import KINDS

        # Typer's scripts hand the line over in one of these. The context has no files: click stops reading a line at an
        # option whose value is missing yet.
        line = os.environ.get("COMP_WORDS") or os.environ.get("_TYPER_COMPLETE_ARGS") or ""
        files = [word for word in line.split() if word.endswith((".yaml", ".yml")) and os.path.isfile(word)]
        kinds = [KINDS[kind] for kind in map(_kind_of, files) if kind and kind in KINDS]
        keys = {key for kind in kinds or KINDS.values() for key in _keys(kind, incomplete)}
        return _that_continue(incomplete, sorted(keys))
    return []


def _keys(model: "type[BaseModel]", typed: str) -> Iterator[str]:
    """The keys below the sections that were typed: `optim.l` asks for those of `optim`."""
    *sections, _ = typed.split(".")
    models = {model}
    for section in sections:
        fields = [inner.model_fields[section] for inner in models if section in inner.model_fields]
        models = {found for field in fields for found in _models_in(field.annotation)}
    for inner in models:
        for name, field in inner.model_fields.items():
            is_section = any(_models_in(field.annotation))
            yield ".".join((*sections, name)) + ("." if is_section else "=")


def _models_in(annotation: Any) -> "Iterator[type[BaseModel]]":
    if hasattr(annotation, "model_fields"):
        yield annotation
    for inner in get_args(annotation):
        yield from _models_in(inner)


def _kind_of(file: str) -> str | None:
    """The kind of a recipe, without the rest of it being checked."""
    text = Path(file).read_text(encoding="utf-8")
    match = re.search(r"^kind:\s*[\"']?(\w+)", text, re.MULTILINE)
    return match and match[1]


def _cluster(context: typer.Context) -> "Cluster":
    from launcher.load.profile import load_cluster

    return load_cluster(context.params.get("cluster"))


def _that_continue(incomplete: str, words: Iterable[str]) -> list[str]:
    return [word for word in dict.fromkeys(words) if word.startswith(incomplete)]


def _quietly() -> AbstractContextManager[None]:
    return contextlib.suppress(Exception)
