"""`launcher report`: a page that says what the run directories say, and cannot be taken for anything else."""

import json
import re
import stat
from html.parser import HTMLParser
from pathlib import Path

import pytest

from launcher.run.ledger import append_event
from launcher.run.sweep_points import SweptRun, write_points
from tests.support.browser import browser
from tests.support.command_line import launcher
from tests.support.run_histories import History

HOSTILE = "</title></pre><script>alert(1)</script>\"'&"
VOID = {"meta"}


class PageReader(HTMLParser):
    """Reads a page and insists that tags are closed in their order."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[str] = []
        self.said: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += attrs
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.said.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.said).split())


def write(folder: Path, run_id: str, name: str = "tiny cpt", loss: float = 2.0, **recipe: object) -> History:
    """A run that was preempted, then killed, then finished."""
    history = History.begin(folder / "runs", run_id, "tiny")
    history.record.name = name
    history.record.cluster = {
        "name": "there",
        "gpus": {"type": "a100", "price": 2.5},
        "roots": {"models": str(folder), "corpora": str(folder), "data": str(folder)},
    }
    written = json.loads(history.run.recipe.read_text())
    written |= {"resources": {"nodes": 2, "gpus_per_node": 8}, "checkpoint": {"interval": "10 steps"}, **recipe}
    history.run.recipe.write_text(json.dumps(written))
    history.submit("7", at=0)
    history.start(0, "7", at=100).begin_steps(0, at=110).train(0, 0, 30, at=110, loss=loss)
    history.pause(0, 30, "saving", 170, 180).end(0, "preempted", "requeue", at=180, last_step=30)
    history.start(1, "7", at=200).train(1, 30, 50, at=210, loss=loss)
    history.end(1, "killed", "requeue", at=270, last_step=40, message=f"said {HOSTILE}")
    history.start(2, "7", at=300).begin_steps(2, at=310).train(2, 40, 60, at=310, loss=loss)
    return history.end(2, "finished", "done", at=460, last_step=60)


@pytest.fixture
def profile(tmp_path: Path) -> dict[str, str]:
    path = tmp_path / "cluster.yaml"
    roots = ", ".join(f"{name}: {tmp_path / name}" for name in ("runs", "corpora", "models"))
    path.write_text(f"name: here\nexecutor: local\nroots: {{{roots}}}\n")
    return {"LAUNCHER_CLUSTER": str(path)}


def page_of(tmp_path: Path, profile: dict[str, str], *names: str) -> str:
    launcher("report", *names, "--html", str(tmp_path / "page.html"), environ=profile)
    return (tmp_path / "page.html").read_text(encoding="utf-8")


def test_the_page_says_where_time_went_and_what_it_cost(tmp_path: Path, profile: dict[str, str]) -> None:
    write(tmp_path, "abc123")

    read = PageReader(page_of(tmp_path, profile, "abc123"))

    said = read.text
    assert "38.7 %" in said  # 2 x 60 of 310 s on nodes
    assert "26.1 %" in said  # of 460 s
    assert "1.38" in said  # GPU-hours: 16 x 310 s
    assert "3.44" in said  # at 2.5 each
    assert "0.6" in said  # kWh: 400 W each
    assert "1 attempt ended without saving" in said
    assert "The recipe says 10 steps" in said
    assert "killed, no reason given" in said


def test_json_has_the_numbers_of_the_page(tmp_path: Path, profile: dict[str, str]) -> None:
    write(tmp_path, "abc123")

    [one] = json.loads(launcher("report", "abc123", "--json", environ=profile)[0])["runs"]

    expected = {"queued": 150, "starting": 30, "useful": 120, "redone": 20, "saving": 120, "lost": 20}
    assert {kind: seconds for kind, seconds in one["seconds"].items() if seconds} == pytest.approx(expected)
    assert one["wall_clock_seconds"] == 460
    assert one["gpu_hours"] == pytest.approx(16 * 310 / 3600)
    assert one["curves"]["loss"] == [[float(step), 2.0, 2.0, 2.0] for step in range(1, 61)]
    assert one["checkpoint_interval"]["failures"] == 1
    assert list(tmp_path.glob("*.html")) == []


def test_the_page_is_whole_and_loads_nothing(tmp_path: Path, profile: dict[str, str]) -> None:
    write(tmp_path, "abc123")
    write(tmp_path, "def456", loss=1.0)

    page = page_of(tmp_path, profile, "abc123", "def456")

    read = PageReader(page)
    assert read.tags.count("figure") == 2
    assert not [value for name, value in read.attributes if name in ("src", "href", "srcset", "action", "data")]
    assert not re.search(r"url\(|@import|<script|<link", page)
    for media in ("screen and (prefers-color-scheme: dark)", "screen and (max-width", "print"):
        assert f"@media {media}" in page


def test_names_and_values_are_text_and_never_markup(tmp_path: Path, profile: dict[str, str]) -> None:
    history = write(tmp_path, "abc123", name=f"n {HOSTILE}", description=HOSTILE, model={HOSTILE: [HOSTILE]})
    write(tmp_path, "def456")
    row = {"time": 1.0, "step": 61, "attempt": 2, "loss": 2.0, HOSTILE: 1.0, "text": HOSTILE}
    with history.run.metrics.open("a") as metrics:
        metrics.write(json.dumps(row) + "\n")
    history.run.evaluations.write_text(json.dumps({"time": 1.0, "step": 60, "attempt": 2, f"e {HOSTILE}": 1.0}) + "\n")
    append_event(history.run.ledger, 2, job_id=HOSTILE, nodes=[HOSTILE])
    values = json.loads(history.run.record.read_text()) | {"code_commit": HOSTILE, "code_hash": HOSTILE}
    values["cluster"] |= {"name": HOSTILE, "modules": [HOSTILE], "container": {"image": HOSTILE}}
    history.run.record.write_text(json.dumps(values))

    read = PageReader(page_of(tmp_path, profile, "abc123", "def456"))

    assert "script" not in read.tags
    assert "".join(read.said).count(HOSTILE) >= 10
    assert not [name for name, _ in read.attributes if name.startswith("on")]


def test_a_page_of_credentialed_data_has_no_messages_and_is_for_its_owner_alone(
    tmp_path: Path, profile: dict[str, str]
) -> None:
    history = write(tmp_path, "abc123", data_use="credentialed")
    append_event(history.run.ledger, 1, fault="patient Smith", message="patient Smith was seen")
    history.run.outputs.mkdir()
    history.run.samples.write_text(json.dumps({"prompt": "patient Smith", "step": 1}) + "\n")
    history.log(1, 0, "ValueError: patient Smith")

    page = page_of(tmp_path, profile, "abc123")
    printed, _ = launcher("report", "abc123", "--json", environ=profile)

    assert "Smith" not in page + printed
    assert "credentialed data" in page
    assert stat.S_IMODE((tmp_path / "page.html").stat().st_mode) == 0o600


def test_a_run_that_has_not_started_and_one_without_a_recipe_are_reported(
    tmp_path: Path, profile: dict[str, str]
) -> None:
    History.begin(tmp_path / "runs", "abc123")
    History.begin(tmp_path / "runs", "def456").run.recipe.unlink()

    read = PageReader(page_of(tmp_path, profile, "abc123", "def456"))

    assert "not submitted" in read.text
    assert "figure" not in read.tags


def test_tasks_of_a_run_are_reported_with_it(tmp_path: Path, profile: dict[str, str]) -> None:
    whole, task = write(tmp_path, "abc123"), write(tmp_path, "def456", loss=1.0)
    whole.run.shares.mkdir()
    task.run.root.rename(whole.run.share(0).root)

    reports = json.loads(launcher("report", "abc123", "--json", environ=profile)[0])["runs"]

    assert [one["label"] for one in reports] == ["tiny cpt abc123, task 0", "tiny cpt abc123"]
    assert [one["curves"]["loss"][0][1] for one in reports] == [1.0, 2.0]


def test_points_of_a_sweep_are_named_by_their_values(tmp_path: Path, profile: dict[str, str]) -> None:
    runs = [write(tmp_path, run_id).run for run_id in ("abc123", "def456")]
    points = [
        SweptRun("rates", {"optim.lr": rate}, run.root.name, "f") for rate, run in zip((1e-4, 3e-4), runs, strict=True)
    ]
    write_points(tmp_path / "runs", "rates", points, 0o755)

    both = json.loads(launcher("report", "rates", "--json", environ=profile)[0])["runs"]
    one = json.loads(launcher("report", "rates", "--where", "lr=3e-4", "--json", environ=profile)[0])["runs"]

    assert [each["label"] for each in both] == ["lr 0.0001", "lr 0.0003"]
    assert [each["id"] for each in one] == ["def456"]


@pytest.mark.parametrize(
    ("name", "said"), [("missing/page.html", "there is no folder"), (".", "ends in `.html`"), ("a.yaml", "ends in")]
)
def test_where_the_page_cannot_be_written_is_said(
    tmp_path: Path, profile: dict[str, str], name: str, said: str
) -> None:
    write(tmp_path, "abc123")

    _, error = launcher("report", "abc123", "--html", str(tmp_path / name), code=2, environ=profile)

    assert said in error


@pytest.mark.slow
def test_a_browser_shows_it_light_dark_narrow_and_asks_for_nothing(tmp_path: Path, profile: dict[str, str]) -> None:
    write(tmp_path, "abc123", name=f"n {HOSTILE}")
    write(tmp_path, "def456", loss=1.0)
    page_of(tmp_path, profile, "abc123", "def456")
    address = f"file://{tmp_path / 'page.html'}"

    with browser(tmp_path / "profile") as page:
        colours = []
        for width, dark in ((1200, False), (1200, True), (400, False)):
            page.look(width, 900, dark)
            page.open(address)
            page.wait_for("document.readyState === 'complete' && document.querySelector('figure') !== null", "the page")
            colours.append(page.evaluate("getComputedStyle(document.body).backgroundColor"))
            assert page.evaluate("document.documentElement.scrollWidth") <= width
        drawn = page.evaluate("document.querySelector('figure polyline').getBoundingClientRect().width")

        assert page.requested == [address] * 3
        assert colours[0] == colours[2] != colours[1]
        assert drawn > 100
