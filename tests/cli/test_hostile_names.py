"""Names that look like markup, in every page and drawing that a command writes.

Each is written twice, with a harmless name and with a hostile one, and read by libxml2. Both have to be of the same
elements with the same attributes: then nothing of a page comes from a name.
"""

import json
import re
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from lxml import etree

from bench.gpu.page import page as gpu_page
from launcher.artifacts.scores import Training
from launcher.cli.views.graph_page import page as graph_page
from launcher.cli.views.graph_view import GraphNode, draw_svg
from launcher.cli.views.html_page import POLICY
from launcher.cli.views.plan_page import RecipePlan
from launcher.cli.views.plan_page import page as plan_page
from launcher.cluster import Cluster
from launcher.load.recipes import load_recipes
from launcher.pipeline.forecast import PipelineForecast, StageForecast
from launcher.plan.alternatives import alternatives_of
from launcher.plan.details import detail
from launcher.run.ledger import append_event
from tests.plan.test_trace import FOUND
from tests.project.test_gpu_kit import REPORT
from tests.support.command_line import launcher
from tests.support.evaluations import answered, choice_report, perplexity_report, texts, write_evaluation
from tests.support.model_configs import LLAMA_7B
from tests.support.run_histories import History

RECIPES = Path(__file__).parents[2] / "recipes"
HARMLESS = "name"
HOSTILE = {
    "script": "</title></style></pre><script>alert(1)</script>",
    "attribute": '"><img src=x onerror=alert(1)>',
    "other quotes": "' onload='alert(1)' x='",
    "comment and CDATA": "--><![CDATA[<svg/onload=alert(1)>]]><!--",
    "entities": "&lt;b&gt; &#60;i&#62; &amp; &",
}
Write = Callable[[str, Path, Cluster], str]


def graph_nodes(name: str) -> list[GraphNode]:
    first = GraphNode(f"a{name}", f"k{name}", (), f"s{name}", f"d{name}", f"r{name}")
    return [first, replace(first, name=f"b{name}", awaits=(first.name,))]


def graph_html(name: str, folder: Path, site: Cluster) -> str:
    return graph_page(name, graph_nodes(name), refresh=5)


def graph_svg(name: str, folder: Path, site: Cluster) -> str:
    return draw_svg(graph_nodes(name))


def report_html(name: str, folder: Path, site: Cluster) -> str:
    histories = [History.begin(Path(site.roots.runs), run_id, "tiny") for run_id in ("abc123", "def456")]
    for history in histories:
        history.record.name = f"n{name}"
        history.record.cluster = {"name": name, "modules": [name], "container": {"image": name}, "roots": {}}
        history.record.code_commit = name
        written = json.loads(history.run.recipe.read_text())
        history.run.recipe.write_text(json.dumps(written | {"description": name, "model": {name: [name]}}))
        history.submit("7", at=0).start(0, "7", at=1, nodes=(name,)).train(0, 0, 9, at=2)
        history.log(0, 0, f"ValueError: {name}")
        history.end(0, "killed", "requeue", at=20, message=name)
        append_event(history.run.ledger, 0, job_id=name, fault=name)
        row = {"time": 1.0, "step": 9, "attempt": 0, "loss": 2.0, f"m{name}": 1.0, "text": name}
        with history.run.metrics.open("a") as metrics:
            metrics.write(json.dumps(row) + "\n")
        history.run.evaluations.write_text(json.dumps(row | {f"e{name}": 1.0}) + "\n")
    profile = write_profile(site, folder)
    launcher("report", "abc123", "def456", "--html", str(folder / "page.html"), "--cluster", profile)
    return (folder / "page.html").read_text(encoding="utf-8")


def compare_html(name: str, folder: Path, site: Cluster, *options: str) -> str:
    places = []
    for place, right in enumerate(("1100" * 10, "1101" * 10, "1111" * 10, "1110" * 10)):
        tasks = {
            f"t{name}": choice_report(answered(right, f"m{name}"), f"m{name}"),
            f"p{name}": perplexity_report(texts(1, loss=1 + place)),
        }
        training = Training(name=f"{place}{name}", method=f"{place // 2}{name}", seed=place)
        model = {"adapters": [{"path": name}], "dtype": name}
        where, run = folder / f"{place}", f"{place}aaaaa"
        places.append(str(write_evaluation(where, tasks, f"{place}{name}", run, trainings=[training], **model)))
    launcher("compare", *options, *places, "--html", str(folder / "page.html"))
    return (folder / "page.html").read_text(encoding="utf-8")


def seeds_html(name: str, folder: Path, site: Cluster) -> str:
    return compare_html(name, folder, site, "--group")


def plan_html(name: str, folder: Path, site: Cluster) -> str:
    site = site.model_copy(update={"name": name})
    (item,) = load_recipes(RECIPES / "biomed_llama_cpt.yaml", ())
    others = alternatives_of(item, site)  # reads the recipe again, which refuses such a name
    item = replace(item, recipe=item.recipe.model_copy(update={"name": name}))
    trace = replace(
        FOUND, place=name, messages=tuple(replace(one, name=name, dimension=name) for one in FOUND.messages)
    )
    found = detail(item, site)
    assert found is not None
    planned = [RecipePlan(item, found, trace, others), RecipePlan(item, None, None, (), name)]
    stage = StageForecast(name, (name,), 1.0, 1.0, is_limit=False)
    return plan_page(planned, {name: PipelineForecast((stage,), (name,), 1.0, 1.0, 1.0)}, site)


def watch_svg(name: str, folder: Path, site: Cluster) -> str:
    history = History.begin(Path(site.roots.runs), "abc123", "tiny")
    history.record.name = f"n{name}"
    history.record.write(history.run.record)
    history.submit("local-1", at=0).start(0, "local-1", at=1, nodes=(name,)).train(0, 0, 9, at=2)
    history.log(0, 0, f"loss {name}")
    launcher("watch", "abc123", "--svg", str(folder / "page.svg"), "--cluster", write_profile(site, folder))
    return (folder / "page.svg").read_text(encoding="utf-8")


def gpu_html(name: str, folder: Path, site: Cluster) -> str:
    def named(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: named(one) for key, one in value.items()}
        if isinstance(value, list):
            return [named(one) for one in value]
        return re.sub("<.*?>|nccl|needs|Error", lambda _: name, value) if isinstance(value, str) else value

    return gpu_page(named(REPORT))


PAGES: dict[str, Write] = {
    "graph": graph_html, "graph as SVG": graph_svg, "report": report_html, "compare": compare_html,
    "compare --group": seeds_html, "plan": plan_html, "watch as SVG": watch_svg, "GPU report": gpu_html,
}  # fmt: skip


def write_profile(site: Cluster, folder: Path) -> str:
    (folder / "site.yaml").write_text(site.model_dump_json(exclude_defaults=True))
    return str(folder / "site.yaml")


@pytest.fixture
def make_site(make_cluster: Callable[..., Cluster], tmp_path: Path) -> Callable[[str], tuple[Path, Cluster]]:
    def make(called: str) -> tuple[Path, Cluster]:
        folder = tmp_path / called
        roots = {name: str(folder / name) for name in ("runs", "corpora", "models", "data")}
        site = make_cluster(roots=roots, executor="local", gpus={"type": "a100", "memory": "80GB", "price": 1.5})
        model = Path(site.roots.models) / "huggyllama" / "llama-7b"
        model.mkdir(parents=True)
        (model / "config.json").write_text(json.dumps(LLAMA_7B))
        return folder, site

    return make


def read(text: str) -> Any:
    """Read a page as a browser would, a drawing as XML."""
    parser = etree.XMLParser(resolve_entities=False) if text.startswith("<svg") else etree.HTMLParser()
    return etree.fromstring(text.encode(), parser)


def markup(root: Any) -> Counter[tuple[Any, ...]]:
    """Count elements by their name and the names of their attributes; comments too.

    A column that has a text in it has a class, so classes are left out.
    """
    kinds = ((one.tag if isinstance(one.tag, str) else "comment", {*one.attrib} - {"class"}) for one in root.iter())
    return Counter((tag, *sorted(attributes)) for tag, attributes in kinds)


def values(root: Any) -> list[str]:
    """All that is text: what is shown, and what attributes say."""
    return [*root.itertext(), *(value for one in root.iter() for value in one.attrib.values())]


@pytest.mark.parametrize("hostile", HOSTILE)
@pytest.mark.parametrize("kind", PAGES)
def test_no_markup_comes_from_a_name(kind: str, hostile: str, make_site: Callable[[str], tuple[Path, Cluster]]) -> None:
    name = HOSTILE[hostile]
    plain = read(PAGES[kind](HARMLESS, *make_site("harmless")))
    found = read(PAGES[kind](name, *make_site("hostile")))

    said = "".join("".join(values(found)).split())
    assert "".join(name.split())[:20] in said  # it is there, and as it was written
    if kind == "watch as SVG":  # draws a piece of text for each style on a line, and cuts lines
        assert set(markup(found)) == set(markup(plain))
    else:
        assert markup(found) == markup(plain)
    assert not [one for one in found.iter() if one.tag in ("script", "img", "link", "iframe", "object", "base")]
    assert not [key for one in found.iter() for key in one.attrib if key.lower().startswith("on")]


@pytest.mark.parametrize("kind", [kind for kind in PAGES if "SVG" not in kind])
def test_a_browser_is_told_to_run_and_to_load_nothing(
    kind: str, make_site: Callable[[str], tuple[Path, Cluster]]
) -> None:
    root = read(PAGES[kind](HARMLESS, *make_site("harmless")))

    (head,) = root.iter("head")
    policies = [one.get("content") for one in head if one.get("http-equiv") == "Content-Security-Policy"]
    assert policies == [POLICY]
    assert [one.tag for one in head].index("style") > 1  # what is before the policy is not under it


@pytest.mark.parametrize("hostile", HOSTILE)
def test_the_check_finds_a_name_that_is_not_escaped(hostile: str) -> None:
    page = "<html><body><p title='%s'>%s</p></body></html>"
    plain, found = (read(page % (name, name)) for name in (HARMLESS, HOSTILE[hostile]))

    assert markup(found) != markup(plain) or HOSTILE[hostile] not in values(found)
