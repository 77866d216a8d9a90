"""search.json: what a search tries, and what its trials are frozen from."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

from launcher.cluster import Cluster
from launcher.load import LoadedRecipe
from launcher.load.sweep_points import Point
from launcher.recipe import read_recipe
from launcher.recipe.base import Direction
from launcher.recipe.identity import recipe_checksum
from launcher.recipe.sections.search import Search
from launcher.run.files import replace_text
from launcher.run.paths import PipelineDir
from launcher.run.record import fingerprint

_MAY_CHANGE = ("trials", "parallel", "pruner", "seed", "method")
"""Keys of the section that leave the trials that there are comparable with later ones."""


@dataclass(frozen=True)
class SearchRecord:
    """What search.json says. Submitting a search again replaces it."""

    name: str
    section: Mapping[str, Any]
    """The recipe's `search`."""
    direction: Direction
    """Which values of the metric are better."""
    recipe: Mapping[str, Any]
    """The resolved recipe at one corner of the space."""
    text: str
    """The YAML document as written."""
    path: str
    """Of the recipe's file."""
    cluster: Mapping[str, Any]
    """The resolved cluster profile."""
    code: str
    """Folder of the code snapshot."""
    commit: str | None
    rehearsal: bool
    is_open: bool
    """Whether others may read the folders of trials."""
    pipeline: str | None = None
    """Folder of the pipeline that the search is a stage of."""
    stage: str | None = None

    @property
    def search(self) -> Search:
        """The section."""
        known = {key: value for key, value in self.section.items() if key in Search.model_fields}
        return Search.model_validate_json(json.dumps(known))

    @property
    def site(self) -> Cluster:
        """The site."""
        return Cluster.model_validate_json(json.dumps(self.cluster))

    @property
    def subject(self) -> str:
        """Checksum of what may not change between two submissions of one search."""
        recipe = read_recipe(json.dumps(self.recipe))
        section = {key: value for key, value in self.section.items() if key not in _MAY_CHANGE}
        return fingerprint({"recipe": recipe_checksum(recipe), "section": section})

    def trial_recipe(self, number: int, values: Mapping[str, Any]) -> LoadedRecipe:
        """Make the recipe of a trial.

        Raises:
            pydantic.ValidationError: These values do not go together.
        """
        content = lay(self.recipe, values)
        content["name"] = f"{self.name}-{number}"
        if "output" in content:  # it names what the best trial makes
            content["output"] = None
        label = " ".join(f"{key}={json.dumps(value)}" for key, value in values.items())
        point = Point(self.name, values, label)
        artifacts = PipelineDir(Path(self.pipeline)).artifacts if self.pipeline else None
        recipe = read_recipe(json.dumps(content))
        return LoadedRecipe(recipe, Path(self.path), self.text, point=point, artifacts=artifacts)

    def ending_at(self, trials: int) -> "SearchRecord":
        """Return the same search with as many trials as there are: W&B has no more."""
        parallel = min(self.section.get("parallel", 1), trials)
        return replace(self, section={**self.section, "trials": trials, "parallel": parallel})

    def write(self, path: Path) -> None:
        """Write search.json."""
        replace_text(path, json.dumps(asdict(self), indent=1) + "\n")

    @classmethod
    def read(cls, path: Path) -> "SearchRecord":
        """Read search.json; a launcher that is newer than the code of an element may have added fields."""
        found = json.loads(path.read_bytes())
        return cls(**{known.name: found[known.name] for known in fields(cls) if known.name in found})


def lay(recipe: Mapping[str, Any], values: Mapping[str, Any]) -> dict[str, Any]:
    """Lay values over a resolved recipe, by their dotted keys; numbers are places in lists."""
    laid: dict[str, Any] = json.loads(json.dumps(recipe))
    for key, value in values.items():
        *sections, last = key.split(".")
        inner: Any = laid
        for name in sections:
            if isinstance(inner, list):
                inner = inner[int(name)]
            else:
                inner[name] = inner.get(name) or {}
                inner = inner[name]
        inner[int(last) if isinstance(inner, list) else last] = value
    return laid
