"""What the documents say exists: links, files, recipes, modules."""

import re
from pathlib import Path
from typing import get_args

import pytest

from launcher.artifacts.corpus_manifest import FORMAT
from launcher.errors import RecipeError
from launcher.load import load_recipes
from launcher.monitor.observed_state import State
from launcher.recipe import KINDS
from launcher.run.paths import RunDir

ROOT = Path(__file__).parents[2]
DOCUMENTS = sorted(
    [*ROOT.glob("*.md"), *(path for name in ("bench", "docs", "recipes") for path in (ROOT / name).rglob("*.md"))]
)


def typed_commands(document: Path) -> list[str]:
    """Return the `launcher ...` lines of a document's console blocks."""
    blocks = re.findall(r"```console\n(.*?)```", document.read_text(encoding="utf-8"), re.DOTALL)
    lines = [line.removeprefix("$ ") for block in blocks for line in block.splitlines() if line.startswith("$ ")]
    parts = [part.strip() for line in lines for part in line.split("#")[0].split(";")]
    return [part for part in parts if part.startswith("launcher ")]


def test_there_are_documents_with_commands() -> None:
    assert sum(len(typed_commands(document)) for document in DOCUMENTS) > 10


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_lead_somewhere(document: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)", document.read_text(encoding="utf-8")):
        is_written_by_the_build = document.parent == ROOT / "docs" and target.startswith("reference/")
        assert target.startswith("https://") or is_written_by_the_build or (document.parent / target).exists(), target


def test_recipes_named_in_commands_exist() -> None:
    named = {
        word for document in DOCUMENTS for typed in typed_commands(document) for word in typed.split() if "/" in word
    }

    assert {name for name in named if name.endswith(".yaml") and not (ROOT / name).exists()} == set()


def test_whole_recipes_in_documents_are_valid(tmp_path: Path) -> None:
    blocks = [
        block
        for document in DOCUMENTS
        for block in re.findall(r"```yaml\n(.*?)```", document.read_text(encoding="utf-8"), re.DOTALL)
        if block.startswith("kind:")
    ]
    for number, block in enumerate(blocks):
        path = tmp_path / f"{number}.yaml"
        path.write_text(block, encoding="utf-8")
        load_recipes(path)

    assert blocks


def test_faults_shown_in_documents_are_those_of_the_recipe_above_them(tmp_path: Path) -> None:
    text = (ROOT / "docs" / "recipes.md").read_text(encoding="utf-8")
    wrong, said = re.findall(r"```yaml\n([^`]*name: wrong\n.*?)```\n\n```text\n(.*?)```", text, re.DOTALL)[0]
    path = tmp_path / "wrong.yaml"
    path.write_text(wrong.replace("base: ", f"base: {ROOT}/recipes/"), encoding="utf-8")

    with pytest.raises(RecipeError) as caught:
        load_recipes(path)

    assert str(caught.value).replace(f"{tmp_path}/", "") == said.rstrip("\n")


def test_the_batch_that_a_transcript_proposes_is_that_of_the_shipped_recipe(monkeypatch: pytest.MonkeyPatch) -> None:
    text = (ROOT / "docs" / "recipes.md").read_text(encoding="utf-8")
    name, value, said = re.findall(r"\$ launcher validate --rehearse (\S+) --set (\S+)\n(.*)\n```", text)[0]
    monkeypatch.chdir(ROOT)

    with pytest.raises(RecipeError) as caught:
        load_recipes(Path(name), [value], rehearse=True)

    assert str(caught.value) == said


def file_above(page: str, folder: Path) -> tuple[Path, str]:
    """Write the first recipe of a page that extends a shipped one; return it and the page."""
    text = (ROOT / "docs" / page).read_text(encoding="utf-8")
    recipe = re.findall(r"```yaml\n(base: .*?)```", text, re.DOTALL)[0].replace("base: ", f"base: {ROOT}/")
    path = folder / "rates.yaml"
    path.write_text(recipe, encoding="utf-8")
    return path, text


@pytest.mark.parametrize(
    ("page", "good", "bad"),
    [("sweeps.md", "3e-4", "fast"), ("searches.md", "metric: validation_loss", "metric: validation_los")],
)
def test_the_fault_shown_is_that_of_the_file_above_it(tmp_path: Path, page: str, good: str, bad: str) -> None:
    path, text = file_above(page, tmp_path)
    assert load_recipes(path)
    path.write_text(path.read_text(encoding="utf-8").replace(good, bad, 1), encoding="utf-8")
    [said] = re.findall(r"^rates.yaml:\d+: .*", text, re.MULTILINE)

    with pytest.raises(RecipeError) as caught:
        load_recipes(path)

    assert said in str(caught.value).replace(f"{tmp_path}/", "").splitlines()


def test_the_tables_shown_of_a_sweep_have_its_points_and_a_metric_of_its_recipe(tmp_path: Path) -> None:
    path, text = file_above("sweeps.md", tmp_path)
    points = load_recipes(path)
    named = set(re.findall(r"(?:by|mean of) (\w+)(?:, lower| over)", text))

    assert re.findall(r"^rates: (\d+) ", text, re.MULTILINE) == [str(len(points))] * 2
    assert named and named <= {*points[0].recipe.reports}


def test_contributing_names_every_target_of_the_makefile_that_is_no_part_of_another() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    listed = set(re.findall(r"^\$ make ([\w-]+)", (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8"), re.MULTILINE))
    targets = re.findall(r"^\.PHONY: (.*)", makefile, re.MULTILINE)[0].split()
    parts = {part for line in re.findall(r"^[\w-]+: (.*)", makefile, re.MULTILINE) for part in line.split()}

    assert set(targets) - parts - listed == set()


def test_the_breakpoint_shown_stands_between_lines_of_the_source() -> None:
    source = (ROOT / "jobs" / "kinds" / "cpt.py").read_text(encoding="utf-8")
    page = (ROOT / "docs" / "debugging.md").read_text(encoding="utf-8")
    before = re.findall(r"```python\n(.*\n) +if run.group.is_main:\n +breakpoint\(\)\n```", page)
    after = re.findall(r"\[rank 0\] -> (.*\n)", page)

    assert f"{before[0]}        {after[0]}" in source


def test_troubleshooting_knows_the_format_of_corpora() -> None:
    text = (ROOT / "docs" / "troubleshooting.md").read_text(encoding="utf-8")

    assert re.findall(
        r"format: Input should be (\d+); copy it again, or remove the folder and prepare the corpus again", text
    ) == [str(FORMAT)]


@pytest.mark.parametrize("name", ["reading-runs.md", "concepts.md"])
def test_every_state_of_a_run_is_explained(name: str) -> None:
    text = (ROOT / "docs" / name).read_text(encoding="utf-8")

    assert [
        state for state in get_args(State) if not re.search(rf"^\| {state} \||\*{state}\*", text, re.MULTILINE)
    ] == []


def test_the_page_on_recipes_leads_to_the_keys_of_every_kind() -> None:
    text = (ROOT / "docs" / "recipes.md").read_text(encoding="utf-8").partition("\n## ")[0]

    assert set(re.findall(r"\[(\w+)\]\(reference/\1\.md\)", text)) == set(KINDS)


def test_the_overview_leads_to_every_page_on_a_task() -> None:
    site = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
    using = re.findall(r"- ([\w-]+\.md)", site.partition("- Using it:")[2].partition("- Behind it:")[0])
    linked = re.findall(r"\]\(([\w-]+\.md)", (ROOT / "docs" / "index.md").read_text(encoding="utf-8"))

    assert set(using) - set(linked) == set()


def block_of_readme(name: str) -> str:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    return readme.partition(f"[start:{name}]")[2].partition(f"[end:{name}]")[0]


@pytest.mark.parametrize("root", ["launcher", "jobs"])
def test_the_readme_names_every_package_and_no_other(root: str) -> None:
    [lines] = re.findall(rf"^{root}/.*\n((?: {{2}}.*\n)+)", block_of_readme("source"), re.MULTILINE)

    assert set(re.findall(r"^ {2}(\w+)/", lines, re.MULTILINE)) == {
        path.parent.name for path in (ROOT / root).glob("*/__init__.py")
    }


def test_the_readme_names_every_file_of_a_run_directory() -> None:
    named = set(re.findall(r"[\w.]+", block_of_readme("rundir")))
    run = RunDir(Path("run"))
    values = [getattr(run, name) for name, what in vars(RunDir).items() if isinstance(what, property)]

    assert {path.name for path in values if isinstance(path, Path)} - named == set()


def test_the_glossary_is_in_alphabetical_order_and_has_each_word_once() -> None:
    text = (ROOT / "docs" / "glossary.md").read_text(encoding="utf-8")
    words = [word.lower() for word in re.findall(r"^(.+)\n:   ", text, re.MULTILINE)]

    assert words == sorted(set(words))
    assert len(words) > 30


def test_every_decision_has_a_date_a_reason_and_a_time_to_revisit_it() -> None:
    pages = {path.name: path.read_text(encoding="utf-8") for path in (ROOT / "docs" / "decisions").glob("*.md")}
    entries = [entry for page in pages.values() for entry in page.split("\n## ")[1:]]
    wanted = re.compile(r".+\n\d{4}-\d\d-\d\d\.\s.*\nWhy.*\nRevisit ", re.DOTALL)

    assert len(entries) > 50
    assert [entry.partition("\n")[0] for entry in entries if not wanted.match(entry)] == []


def test_the_index_of_decisions_leads_to_every_page() -> None:
    folder = ROOT / "docs" / "decisions"
    linked = re.findall(r"\]\(([\w-]+\.md)", (folder / "index.md").read_text(encoding="utf-8"))

    assert {path.name for path in folder.glob("*.md")} == {*linked, "index.md"}
