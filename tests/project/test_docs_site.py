"""The built handbook: complete, without dead links, and without anything from other hosts."""

import importlib.util
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Annotated, Any, Literal

import pytest
import typer.main
from pydantic import BaseModel, Field

from launcher.cli import app
from launcher.cluster import Cluster
from launcher.recipe import KINDS
from launcher.recipe.base import Positive
from launcher.recipe.quantities import Duration

ROOT = Path(__file__).parents[2]
FOREIGN = re.compile(
    r"""<(?:script|img|iframe)[^>]+src="(?:https?:)?//|<link[^>]+href="(?:https?:)?//|url\(["']?https?:"""
)


class Pile(BaseModel):
    """Lines."""

    format: Literal["pile"]
    """The Pile."""
    files: str
    """Which."""


class Pmc(BaseModel):
    """Articles."""

    format: Literal["pmc"]
    """JATS."""
    files: str
    """Which."""
    headings: bool = True
    """Titles | stay."""


class Example(BaseModel):
    """An example."""

    sources: tuple[Annotated[Pile | Pmc, Field(discriminator="format")], ...]
    """Texts."""


@pytest.fixture(scope="module")
def reference() -> ModuleType:
    spec = importlib.util.spec_from_file_location("docs_reference", ROOT / "docs" / "reference.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build the site."""
    folder = tmp_path_factory.mktemp("site")
    argv = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)]
    done = subprocess.run(argv, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return folder


def keys_of(model: type[BaseModel]) -> Iterator[str]:
    """Yield the keys of a model and of the models in it, from its JSON schema."""
    schema = model.model_json_schema()
    for part in (schema, *schema.get("$defs", {}).values()):
        yield from part.get("properties", {})


def command_names(command: Any, name: str) -> Iterator[str]:
    inner = getattr(command, "commands", {})
    yield from [] if inner else [name]
    for part in inner:
        yield from command_names(inner[part], f"{name} {part}")


@pytest.mark.parametrize(
    ("annotation", "words"),
    [
        (bool, "`true`, `false`"),
        (str | None, "text or `null`"),
        (Literal["a", "b"], "`a`, `b`"),
        (Positive, "whole number (≥ 1)"),
        (Annotated[float, Field(gt=0, le=1)] | None, "number (> 0, ≤ 1) or `null`"),
        (tuple[str, ...], "list of text"),
        (tuple[int, float], "[whole number, number]"),
        (dict[str, str], "mapping"),
        (Duration, Duration.example),
    ],
)
def test_values_are_told_in_words(reference: ModuleType, annotation: Any, words: str) -> None:
    assert reference.value_words(annotation) == words


def test_a_section_with_several_forms_tells_what_they_share_once(reference: ModuleType) -> None:
    text = "\n".join(reference._section_lines([Example], ""))

    assert "| `sources` | list of [section](#sources) | **required** | Texts. |" in text
    assert text.count("`sources.N.files`") == 1
    assert text.index("`sources.N.files`") < text.index("### `format: pile`") < text.index("### `format: pmc`")
    assert "| `sources.N.headings` | `true`, `false` | `true` | Titles \\| stay. |" in text


@pytest.mark.slow
@pytest.mark.parametrize(("page", "model"), [*KINDS.items(), ("cluster", Cluster)])
def test_the_reference_has_every_key(site: Path, page: str, model: type[BaseModel]) -> None:
    text = (site / "reference" / f"{page}.html").read_text(encoding="utf-8")
    keys = {key.rpartition(".")[-1] for key in re.findall(r"<td><code[^>]*>([\w.]+)</code></td>", text)}

    assert keys >= set(keys_of(model))


@pytest.mark.slow
def test_the_reference_has_every_command_and_option(site: Path) -> None:
    text = (site / "reference" / "commands.html").read_text(encoding="utf-8")
    headings = re.findall(r"<h2[^>]*>(launcher [^<]+)<", text)

    assert headings == list(command_names(typer.main.get_command(app), "launcher"))
    assert ">--max-parallel INT</code>" in text


@pytest.mark.slow
def test_pages_load_nothing_from_other_hosts(site: Path) -> None:
    files = [path for path in site.rglob("*") if path.suffix in (".html", ".css")]

    assert len(files) > 15
    assert [path.name for path in files if FOREIGN.search(path.read_text(encoding="utf-8"))] == []


@pytest.mark.slow
def test_parts_that_are_included_from_elsewhere_are_there(site: Path) -> None:
    assert "tells the same story" in (site / "index.html").read_text(encoding="utf-8")
    assert "never requeued" in (site / "interruptions.html").read_text(encoding="utf-8")
    assert not any("--8&lt;--" in path.read_text(encoding="utf-8") for path in site.rglob("*.html"))


@pytest.mark.slow
def test_options_and_keys_are_kept_on_one_line_and_long_commands_are_not(site: Path) -> None:
    text = (site / "tutorial.html").read_text(encoding="utf-8")

    assert '<code class="whole">--rehearse</code>' in text
    assert "<code>recipes/prepare_medline.yaml</code>" in text
    assert ".md-typeset code.whole { white-space: nowrap; }" in (site / "style.css").read_text(encoding="utf-8")
