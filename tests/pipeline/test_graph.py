"""The drawing of a pipeline."""

import xml.etree.ElementTree as ET
from pathlib import Path

from launcher.cli.views.graph_view import GraphNode, draw_svg, draw_text
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

    assert len(root.findall(f"{space}rect")) == 5
    assert len(root.findall(f"{space}path")) == 5
    assert "<after>" in [text.text for text in root.findall(f"{space}text")]


def test_the_command_draws_the_file_of_a_pipeline(tmp_path: Path) -> None:
    path = Path(__file__).parents[2] / "recipes" / "pipelines" / "biomed_llama.yaml"

    printed, _ = launcher("graph", str(path))
    launcher("graph", str(path), "--output", str(tmp_path / "p.svg"))

    expected = ["prepare [prepare]", "└─ pretrain [cpt]", "   └─ after [evaluate]", "before [evaluate]"]
    assert printed.splitlines() == expected
    assert (tmp_path / "p.svg").read_text().startswith("<svg ")
