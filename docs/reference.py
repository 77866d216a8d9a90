"""The reference pages, written while the site is built: an mkdocs hook that reads the models and the command line.

What a key or an option means stands beside it in the source, so these pages cannot fall behind it.
"""

import inspect
import json
import re
from collections.abc import Iterator, Sequence
from types import NoneType
from typing import Annotated, Any, Literal, TypeAlias, get_args, get_origin

import typer.main
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from launcher.cli import app
from launcher.cli.exit_codes import EXIT_CODES
from launcher.cluster import Cluster
from launcher.monitor.exit_reasons import EXIT_REASONS
from launcher.recipe import KINDS
from launcher.recipe.field_docs import field_texts
from launcher.recipe.quantities import Quantity
from launcher.slurm.reasons import PHRASES, WORDS

Model: TypeAlias = type[BaseModel]

_PLAIN = {
    Any: "any value",
    str: "text",
    int: "whole number",
    float: "number",
    bool: "`true`, `false`",
    NoneType: "`null`",
}
_BOUNDS = (("ge", "≥"), ("gt", ">"), ("le", "≤"), ("lt", "<"))


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Put the reference into the navigation: a page for each kind there is."""
    pages = [{title: f"reference/{name}.md"} for name, title, _ in reference_pages()]
    config.nav = [*(config.nav or []), {"Reference": pages}]
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the reference's pages to those that are files."""
    for name, title, body in reference_pages():
        files.append(File.generated(config, f"reference/{name}.md", content=f"# {title}\n\n{body}"))
    return files


def reference_pages() -> Iterator[tuple[str, str, str]]:
    """Write all pages: name, title and text of each."""
    yield "commands", "Commands", "\n".join(_command_lines(typer.main.get_command(app), "launcher"))
    for kind, model in KINDS.items():
        yield kind, f"Recipe: {kind}", "\n".join(_section_lines([model], ""))
    yield "cluster", "Cluster profile", "\n".join(_section_lines([Cluster], ""))
    yield "reasons", "Reasons", "\n".join(_reason_lines())
    yield "exit-codes", "Exit codes", "\n".join(_exit_code_lines())


def _reason_lines() -> Iterator[str]:
    yield "`launcher why RUN` tells these of a run.\n\n## Why an attempt ended\n"
    yield "| reason | meaning | what helps |\n|---|---|---|"
    for name, reason in EXIT_REASONS.items():
        yield f"| `{name or 'none'}` | {reason.meaning} | {reason.advice} |"
    yield "\n## Why Slurm lets a job wait\n\n| reason | the job | what helps |\n|---|---|---|"
    for name, waits in sorted(WORDS.items()) + sorted(PHRASES.items()):
        yield f"| `{name}` | {waits.meaning} | {waits.advice} |"
    limits = "`AssocGrpGRES`, `QOSMaxJobsPerUserLimit` and the like"
    yield f"\nLimits of accounts and QOS ({limits}) are put into words by their parts."


def _exit_code_lines() -> Iterator[str]:
    yield "| code | of a command | of a job | of a rank |\n|---|---|---|---|"
    for code, what in sorted(EXIT_CODES.items()):
        yield f"| {code} | {what.command} | {what.job} | {what.rank} |"
    yield "\n`attach`, `chat` and `debug` end with the exit code of the program that they start."


def _command_lines(command: Any, name: str) -> Iterator[str]:
    for part, inner in getattr(command, "commands", {}).items():
        yield from _command_lines(inner, f"{name} {part}")
    if not hasattr(command, "commands"):
        context = typer.Context(command, info_name=name)
        records = [record for option in command.params if (record := option.get_help_record(context))]
        rows = [f"| `{_typed(names)}` | {_one_line(said)} |" for names, said in records]
        yield f"## {name}\n\n{inspect.cleandoc(command.help)}\n"
        yield from _table("| argument or option | what it does |", rows)


def _typed(names: str) -> str:
    """Write an option as one types it; help shows a type beside an argument or for want of a value's name."""
    return re.sub(r" <(\w+).*>$", lambda match: f" {match[1].upper()}" if names.startswith("-") else "", names)


def _section_lines(forms: Sequence[Model], path: str) -> Iterator[str]:
    """Write about a section and those inside it; one with several forms: what all have, then each form's own keys."""
    tables = [_rows(form, path) for form in forms]
    shared = [row for row in tables[0] if len(forms) > 1 and all(row in table for table in tables)]
    head = "| key | value | default | what it is |"
    yield from _table(head, shared)
    for form, rows in zip(forms, tables, strict=True):
        if len(forms) > 1:
            yield f"### {_tag(form)} {{ #{_anchor(path + form.__name__.lower())} }}\n"
        yield f"{_one_line(form.__doc__ or '')}\n"
        yield from _table(head, [row for row in rows if row not in shared])
    inside = {name: field for form in forms for name, field in form.model_fields.items()}
    for name, field in inside.items():
        if sections := list(_sections_in(field.annotation)):
            yield f"## {path}{name} {{ #{_anchor(path + name)} }}\n"
            yield from _section_lines(sections, f"{path}{name}.{'N.' if _is_list(field.annotation) else ''}")


def _rows(form: Model, path: str) -> list[str]:
    words, fields = field_texts(form), form.model_fields.items()
    named = ((path + (field.alias or name), field, words[name]) for name, field in fields)
    cells = ((key, _value(key, field), _default(field), said) for key, field, said in named)
    return [f"| `{key}` | {value} | {default} | {_one_line(said)} |" for key, value, default, said in cells]


def _table(head: str, rows: Sequence[str]) -> Iterator[str]:
    if rows:
        yield "\n".join([head, re.sub("[^|]+", " --- ", head), *rows, ""])


def _tag(form: Model) -> str:
    """Say which key tells this form of a section from the others: `format: pile`."""
    tags = ((key, get_args(field.annotation)) for key, field in form.model_fields.items())
    return next((f"`{key}: {values[0]}`" for key, values in tags if len(values) == 1), form.__name__)


def _sections_in(annotation: Any) -> Iterator[Model]:
    if inspect.isclass(annotation) and issubclass(annotation, BaseModel):
        yield annotation
    for argument in get_args(annotation):
        yield from _sections_in(argument)


def _is_list(annotation: Any) -> bool:
    return get_origin(annotation) is tuple or any(map(_is_list, get_args(annotation)))


def _value(key: str, field: FieldInfo) -> str:
    if any(_sections_in(field.annotation)):
        return f"{'list of ' if _is_list(field.annotation) else ''}[section](#{_anchor(key)})"
    return value_words(field.annotation, field.metadata)


def value_words(annotation: Any, metadata: Sequence[Any] = ()) -> str:
    """Say in words what an annotation allows."""
    inner, origin = get_args(annotation), get_origin(annotation)
    if origin is Annotated:
        return value_words(inner[0], inner[1:])
    if origin is Literal:
        return ", ".join(f"`{choice}`" for choice in inner)
    if origin is tuple:
        is_open = inner[1:] == (...,)
        return f"list of {value_words(inner[0])}" if is_open else f"[{', '.join(map(value_words, inner))}]"
    if inner:  # a mapping or a union
        return "mapping" if origin is dict else " or ".join(map(value_words, inner))
    constraints = [one for part in metadata for one in getattr(part, "metadata", [part])]  # Field(ge=1) holds a list
    bounds = [f"{sign} {getattr(one, name)}" for one in constraints for name, sign in _BOUNDS if hasattr(one, name)]
    words = annotation.example if issubclass(annotation, Quantity) else _PLAIN[annotation]
    return words + (f" ({', '.join(bounds)})" if bounds else "")


def _default(field: FieldInfo) -> str:
    default = field.get_default(call_default_factory=True, validated_data={})
    shown = "as below" if isinstance(default, BaseModel) else f"`{json.dumps(default, default=str)}`"
    return "**required**" if field.is_required() else shown


def _one_line(text: str) -> str:
    return " ".join(inspect.cleandoc(text).split()).replace("|", "\\|")


def _anchor(key: str) -> str:
    return key.replace(".", "-")
