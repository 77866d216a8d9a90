"""What all pages of `launcher compare --html` have: their head, notes, and a description of each model."""

from collections.abc import Iterable, Iterator, Sequence
from html import escape
from typing import Any

from launcher.cli.views.compare_style import STYLE
from launcher.cli.views.html_page import html_page
from launcher.scores.scored_model import ScoredModel


def whole_page(title: str, parts: Iterable[str]) -> str:
    """Write a page of its title and what follows."""
    return html_page(title, STYLE, parts)


def heads(names: Sequence[str]) -> str:
    """Write the first row of a table of scores."""
    return "<thead><tr>" + "".join(f'<th scope="col">{name}</th>' for name in names) + "</tr></thead>"


def row(name: str, cells: Iterable[tuple[str, str]]) -> str:
    """Write a row of a table of scores.

    Args:
        name: A model's, or a group's.
        cells: The name and the content of each, which is HTML already.
    """
    filled = "".join(f'<td class="{kind}" data-name="{kind}">{text}</td>' for kind, text in cells)
    return f'<tr><th scope="row">{escape(name)}</th>{filled}</tr>'


def remarks(lines: Iterable[str]) -> Iterator[str]:
    """Write a paragraph in small print for each line."""
    return (f'<p class="small">{escape(line)}</p>' for line in lines)


def listed(title: str, lines: Sequence[str]) -> Iterator[str]:
    """Write a section of lines; nothing if there are none."""
    if lines:
        yield f"<h2>{title}</h2><ul>"
        yield from (f"<li>{escape(line)}</li>" for line in lines)
        yield "</ul>"


def descriptions(models: Sequence[ScoredModel]) -> Iterator[str]:
    """Write what each model was made of."""
    yield "<h2>Models</h2><dl>"
    for model in models:
        its, versions = model.scores.model, model.scores.versions
        facts = [
            ("model", its.get("path")),
            *(("adapter", one.get("path")) for one in its.get("adapters") or ()),
            ("number format", its.get("dtype")),
            ("SHA-256", its.get("sha256")),
            ("run", model.scores.run),
            ("data", model.scores.data_use),
            ("computed with", ", ".join(f"{name} {version}" for name, version in versions.items())),
        ]
        yield f"<dt>{escape(model.label)}</dt>"
        yield from (f"<dd>{name}: {_fact(value)}</dd>" for name, value in facts if value)
    yield "</dl>"


def _fact(value: Any) -> str:
    return f"<code>{escape(str(value))}</code>"
