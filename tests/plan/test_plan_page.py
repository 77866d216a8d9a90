"""`launcher plan --html FILE`: the plan as a drawing."""

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from launcher.cli.views.plan_bars import PARTS, MemoryBar, memory_bars
from launcher.cluster import Cluster
from launcher.plan import trace as traces
from tests.plan.test_trace import FOUND
from tests.support.browser import browser
from tests.support.command_line import launcher
from tests.support.model_configs import LLAMA_7B

RECIPES = Path(__file__).parents[2] / "recipes"
CPT = str(RECIPES / "biomed_llama_cpt.yaml")


@pytest.fixture
def site(make_cluster: Callable[..., Cluster], tmp_path: Path) -> str:
    """Path of a site's profile."""
    cluster = make_cluster(gpus={"type": "a100", "memory": "80GB", "price": 1.5})
    folder = Path(cluster.roots.models) / "huggyllama" / "llama-7b"
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(LLAMA_7B))
    (tmp_path / "site.yaml").write_text(cluster.model_dump_json(exclude_defaults=True))
    return str(tmp_path / "site.yaml")


def test_bars_are_to_one_scale_with_the_limit_where_it_belongs() -> None:
    drawn = memory_bars(
        [MemoryBar("a", {"parameters": 30, "logits": 20}, "50"), MemoryBar("b", {"other": 100}, "x")], 80
    )

    widths = {
        kind: float(width) for kind, width in re.findall(r'class="(m\d)" x="[\d.]+" y="6" width="([\d.]+)"', drawn)
    }
    assert widths["m0"] / widths["m5"] == pytest.approx(1.5, rel=1e-3)
    assert widths[f"m{PARTS.index('other')}"] == pytest.approx(1000 / 1.02, abs=0.1)
    (limit,) = {float(place) for place in re.findall(r'class="limit" x1="([\d.]+)"', drawn)}
    assert limit == pytest.approx(0.8 * 1000 / 1.02, abs=0.1)
    assert drawn.count('<span class="over">') == 1


def test_the_page_says_what_plan_prints(site: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(traces, "_carry_out", lambda _: FOUND.write())
    out = tmp_path / "plan.html"
    launcher("plan", CPT, "--cluster", site, "--html", str(out), "--trace", "--set", "schedule.length=63B tokens")

    page = out.read_text()
    for said in ("6,738,415,616 parameters", "fits", "hybrid_shard", "all-reduce of sharded gradients", "GPU-hours",
                 "forward, lm_head", "4,288", "price"):  # fmt: skip
        assert said in page, said
    assert "<script" not in page
    assert not re.search(r'(src|href)="', page)


def test_a_name_cannot_break_the_page(site: str, tmp_path: Path) -> None:
    out = tmp_path / "plan.html"
    profile = tmp_path / "named.yaml"
    profile.write_text(json.dumps(json.loads(Path(site).read_text()) | {"name": "<b>site</b>"}))
    launcher("plan", CPT, "--cluster", str(profile), "--html", str(out))

    assert "&lt;b&gt;site" in out.read_text()
    assert "<b>site" not in out.read_text()


def test_what_trains_nothing_or_is_a_pipeline_is_on_the_page(site: str, tmp_path: Path) -> None:
    out = tmp_path / "plan.html"
    files = [str(RECIPES / name) for name in ("biomed_llama_eval.yaml", "pipelines/biomed_llama.yaml")]
    launcher("plan", *files, "--cluster", site, "--html", str(out))

    assert "without the queue" in out.read_text()
    assert "trains nothing" in out.read_text()


@pytest.mark.parametrize(
    ("options", "said"),
    [(["--json"], "--html: writes a page, and `--json` prints"), ([], "No such file or directory; name a file")],
)
def test_a_page_that_cannot_be_written_is_refused(site: str, tmp_path: Path, options: list[str], said: str) -> None:
    file = str(tmp_path / "no" / "plan.html")

    assert said in launcher("plan", CPT, "--cluster", site, "--html", file, *options, code=2)[1]


@pytest.mark.slow
@pytest.mark.parametrize("dark", [False, True])
@pytest.mark.parametrize("width", [420, 1200])
def test_the_page_fits_into_a_window_and_asks_for_nothing(site: str, tmp_path: Path, dark: bool, width: int) -> None:
    out = tmp_path / "plan.html"
    launcher("plan", CPT, "--cluster", site, "--html", str(out))
    with browser(tmp_path / "profile") as opened:
        opened.look(width, 1400, dark)
        opened.open(out.as_uri())
        opened.wait_for("document.readyState === 'complete'", "the page")

        assert opened.evaluate("document.documentElement.scrollWidth") <= width
        line = "document.querySelector('line.limit').getBoundingClientRect()"
        bar = "document.querySelector('.plan svg').getBoundingClientRect()"
        assert opened.evaluate(f"{line}.left > {bar}.left && {line}.right <= {bar}.right + 1")
        background = opened.evaluate("getComputedStyle(document.body).backgroundColor")
        assert (background == "rgb(255, 255, 255)") != dark
        assert [url for url in opened.requested if not url.startswith("file:")] == []
