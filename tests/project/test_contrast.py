"""Pages that people can read: colours that stand apart in light and dark, and pictures that have a text."""

import importlib.util
import re
from pathlib import Path
from types import ModuleType
from xml.etree import ElementTree

import pytest

from launcher.cli.views import compare_style, graph_page, graph_view, report_style

ROOT = Path(__file__).parents[2]
DRAWINGS = sorted(
    ROOT / "docs" / name
    for name in re.findall(r"\]\((images/[\w-]+\.svg)\)", (ROOT / "docs" / "concepts.md").read_text(encoding="utf-8"))
)
BEHIND_TEXT = ("--paper", "--plain", "--good", "--mark", "--bad", "--other")
PHONE = 358
"""Pixels that a picture gets on a phone of 390."""
STYLES = {
    "report": (report_style.STYLE, {"--paper": ("--ink", "--soft")}),
    "compare": (compare_style.STYLE, {"--paper": ("--ink", "--soft", "--better", "--worse")}),
    "graph": (graph_page._STYLE, {"--paper": ("--ink", "--soft")}),
}


@pytest.fixture(scope="module")
def checks() -> ModuleType:
    spec = importlib.util.spec_from_file_location("docs_contrast", ROOT / "docs" / "contrast.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_contrast_is_that_of_the_standard(checks: ModuleType) -> None:
    assert checks.contrast("#000", "#ffffff") == pytest.approx(21)
    assert checks.contrast("#777777", "#ffffff") == pytest.approx(4.48, abs=0.01)
    assert checks.contrast("#123456", "#123456") == 1


@pytest.mark.parametrize("name", STYLES)
def test_texts_of_our_pages_stand_apart_in_light_and_dark(checks: ModuleType, name: str) -> None:
    style, pairs = STYLES[name]

    assert len([*checks.palettes(style)]) == 2
    assert [*checks.weak_pairs(style, pairs)] == []


def test_a_weak_pair_is_named_with_its_scheme(checks: ModuleType) -> None:
    style = "a { --ink: #000; --paper: #fff; } @media (prefers-color-scheme: dark) { a { --paper: #222; } }"

    assert [*checks.weak_pairs(style, {"--paper": ("--ink",)})] == ["dark: --ink on --paper: 1.32"]


def test_names_of_stages_stand_apart_from_their_boxes(checks: ModuleType) -> None:
    for colour in (*graph_view._COLOURS.values(), "#f2f2f2"):
        assert min(checks.contrast("#000000", colour), checks.contrast("#555555", colour)) >= checks.LEAST


def test_a_picture_without_a_text_is_found(checks: ModuleType, tmp_path: Path) -> None:
    (tmp_path / "a.html").write_text('<img src="one.png" alt="One"><img src="two.png"><img src="three.png" alt=" ">')

    assert checks.silent_pictures(tmp_path) == ["a.html: two.png", "a.html: three.png"]


def test_pictures_of_the_handbook_have_texts() -> None:
    for path in (ROOT / "docs").rglob("*.md"):
        assert "![](" not in path.read_text(encoding="utf-8"), path


@pytest.mark.parametrize("path", DRAWINGS, ids=lambda path: str(path.stem))
def test_drawings_can_be_read_in_light_and_dark(checks: ModuleType, path: Path) -> None:
    drawn = path.read_text(encoding="utf-8")
    pairs = dict.fromkeys(BEHIND_TEXT, ("--ink", "--soft"))

    assert len([*checks.palettes(drawn)]) == 2
    assert [*checks.weak_pairs(drawn, pairs)] == []


@pytest.mark.parametrize("path", DRAWINGS, ids=lambda path: str(path.stem))
def test_drawings_are_large_enough_on_a_phone_and_tell_what_they_show(path: Path) -> None:
    drawn = path.read_text(encoding="utf-8")
    root = ElementTree.fromstring(drawn)
    own = "{http://www.w3.org/2000/svg}"
    width = float(root.attrib["viewBox"].split()[2])
    sizes = [float(size) for size in re.findall(r"font: (?:\d+ )?(\d+)px", drawn)]

    assert sizes
    assert min(sizes) * PHONE / width >= 11.5
    assert len(root.findtext(f"{own}title") or "") > 10
    assert len(root.findtext(f"{own}desc") or "") > 100
    assert not re.search(r"href|url\((?!#)|@import|<script", drawn)  # nothing from elsewhere


def test_the_page_of_pictures_has_one_for_each_idea() -> None:
    page = (ROOT / "docs" / "concepts.md").read_text(encoding="utf-8")

    assert len(DRAWINGS) == len(re.findall(r"^## ", page, re.MULTILINE)) > 0
