"""The drawing of a pipeline."""

import re
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest
from typer.testing import CliRunner

from launcher.cli import app, graph
from launcher.cli.views.graph_page import page
from launcher.cli.views.graph_view import GraphNode, draw_svg, draw_text
from launcher.errors import LauncherError
from tests.support.command_line import launcher

NODES = [
    GraphNode("corpus", "prepare", (), "finished"),
    GraphNode("before", "evaluate", ()),
    GraphNode("train", "cpt", ("corpus",), "running"),
    GraphNode("merge", "merge", ("corpus", "train")),
    GraphNode("<after>", "evaluate", ("before", "train")),
]


def test_a_stage_hangs_below_the_last_one_that_it_waits_for() -> None:
    assert draw_text(NODES) == [
        "corpus [prepare]  finished",
        "└─ train [cpt]  running",
        "   ├─ merge [merge]",
        "   └─ <after> [evaluate]  (also after before)",
        "before [evaluate]",
    ]


def test_the_svg_has_a_box_for_each_stage_and_a_line_for_each_wait() -> None:
    root = ET.fromstring(draw_svg(NODES))
    space = "{http://www.w3.org/2000/svg}"

    assert len(root.findall(f".//{space}rect")) == 5
    assert len(root.findall(f"{space}path")) == 5
    assert "<after>" in [text.text for text in root.findall(f".//{space}text")]


def test_the_command_draws_the_file_of_a_pipeline(tmp_path: Path) -> None:
    path = Path(__file__).parents[2] / "recipes" / "pipelines" / "clinical_llama_lora.yaml"

    printed, _ = launcher("graph", str(path))
    launcher("graph", str(path), "--output", str(tmp_path / "p.svg"))

    assert printed.splitlines()[:5] == [
        "prepare [prepare]",
        "└─ adapt [cpt] (27 points)",
        "   └─ perplexity [evaluate]",
        "outcomes [outcomes]",
        "├─ mor [classify] (48 points)  (also after adapt)",
    ]
    assert (tmp_path / "p.svg").read_text().startswith("<svg ")


def test_the_page_is_one_file_with_a_row_for_each_stage_and_no_request() -> None:
    text = page("<b>table", NODES, refresh=None)

    assert text.count("<tr>") == 1 + len(NODES)
    assert "&lt;b&gt;table" in text
    assert "<b>" not in text
    assert "&lt;after&gt;" in text
    assert 'http-equiv="refresh"' not in text
    assert not re.search(r"(src|href|url)\s*[=(]", text)
    assert '<meta http-equiv="refresh" content="5">' in page("table", NODES, refresh=5)


def test_a_page_is_written_again_until_the_pipeline_is_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[str] = []
    states = iter([("running", False), ("running", False), ("finished", True)])

    def read(*_: object) -> tuple[list[GraphNode], bool]:
        state, is_over = next(states)
        return [GraphNode("train", "cpt", (), state)], is_over

    monkeypatch.setattr(graph, "_read", read)
    monkeypatch.setattr(graph, "_wait", lambda _: seen.append((tmp_path / "p.html").read_text()))

    graph.graph("table", output=tmp_path / "p.html", follow=5)

    assert ['http-equiv="refresh"' in text for text in seen] == [True, True]
    assert "finished" in (tmp_path / "p.html").read_text()
    assert 'http-equiv="refresh"' not in (tmp_path / "p.html").read_text()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [(["--output", "p.png"], "ends neither in .svg nor in .html"), (["--follow", "5"], "add `--output FILE.html`")],
)
def test_a_drawing_that_cannot_be_written_is_refused(arguments: list[str], said: str) -> None:
    with pytest.raises(LauncherError, match=re.escape(said)):
        CliRunner().invoke(app, ["graph", "x.yaml", *arguments], catch_exceptions=False)


def test_times_and_reuse_stand_beside_the_state() -> None:
    nodes = [
        GraphNode("corpus", "prepare", (), "finished", "finished before"),
        GraphNode("train", "cpt", ("corpus",), "finished", "12 min, 2 attempts"),
    ]

    assert draw_text(nodes) == [
        "corpus [prepare]  finished (finished before)",
        "└─ train [cpt]  finished (12 min, 2 attempts)",
    ]
