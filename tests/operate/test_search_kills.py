"""Eight elements of a search at once, two of which are killed anywhere: no trial is lost, doubled or unreadable."""

import json
import random
from pathlib import Path
from statistics import median

import pytest

from launcher.operate.search.sampler import suggest
from launcher.recipe.sections.search import Search
from tests.support.searches import Element, bowl, check_whole, make_search, section_of, start
from tests.support.submissions import MakeCluster, MakeRecipe
from tests.support.waiting import PATIENCE

ELEMENTS, TRIALS = 8, 40
LINES = 4000
"""About what an element executes until it is half done."""


def search_with_kills(folder: Path, cluster: object, recipe: object, seed: int, **section: object) -> dict[int, float]:
    """Let eight elements work, two of which die; then one more, which finds what those have left."""
    search, submission = make_search(folder, cluster, recipe, seed=seed, **section)  # type: ignore[arg-type]
    element, draw = Element(search, submission), random.Random(seed)
    deaths = [draw.randrange(LINES) for _ in range(2)] + [None] * (ELEMENTS - 2)
    processes = [start(element, dies_at) for dies_at in deaths]
    for process, dies_at in zip(processes, deaths, strict=True):
        process.join(PATIENCE)
        assert process.exitcode == 0 or (dies_at is not None and process.exitcode == -9), process.exitcode
    element.work()
    return check_whole(search, int(str(section["trials"])))


@pytest.mark.parametrize("seed", range(3))
def test_killed_elements_lose_no_trial(
    tmp_path: Path, make_cluster: MakeCluster, make_cpt: MakeRecipe, seed: int
) -> None:
    search_with_kills(tmp_path, make_cluster(), make_cpt(), seed, trials=12)


@pytest.mark.long
@pytest.mark.parametrize("seed", range(100, 200))
def test_killed_elements_lose_no_trial_whenever_they_are_killed(
    tmp_path: Path, make_cluster: MakeCluster, make_cpt: MakeRecipe, seed: int
) -> None:
    search_with_kills(tmp_path, make_cluster(), make_cpt(), seed, trials=20)


@pytest.mark.slow
def test_what_has_worked_is_worth_looking_at(tmp_path: Path, make_cluster: MakeCluster, make_cpt: MakeRecipe) -> None:
    """The best of 40 trials, median of 5 seeds: by TPE with kills, and drawn at random."""
    tpe, drawn = [], []
    for seed in range(5):
        found = search_with_kills(tmp_path / str(seed), make_cluster(), make_cpt(), seed, method="tpe", trials=TRIALS)
        tpe.append(min(found.values()))
        section = Search.model_validate_json(json.dumps(section_of(seed=seed, trials=TRIALS)))
        points = [suggest(section, "minimize", number, ()) for number in range(TRIALS)]
        drawn.append(min(bowl(*point.values()) for point in points))

    assert median(tpe) < median(drawn)
