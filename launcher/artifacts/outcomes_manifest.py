"""manifest.json of a folder of outcome tables: what they were made from, what was left out and why, and their sizes."""

from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import ValidationError

from launcher.artifacts.corpus_manifest import ManifestPart
from launcher.errors import LauncherError
from launcher.recipe.sections.labelled_notes import NoteSplit, Outcome

if TYPE_CHECKING:
    from launcher.recipe.kinds.outcomes import OutcomesRecipe

MANIFEST = "manifest.json"
PUBLISHED_SIZES: dict[Outcome, dict[NoteSplit, int]] = {
    "los": {"train": 30_421, "validation": 4_391, "test": 8_797},
    "mor": {"train": 33_954, "validation": 4_908, "test": 9_822},
    "pmv": {"train": 5_666, "validation": 707, "test": 706},
    "diag": {"train": 33_994, "validation": 4_918, "test": 9_829},
    "proc": {"train": 30_030, "validation": 4_357, "test": 8_681},
}
"""Notes of each split of MIMIC-III in Clinical LLaMA-LoRA (https://arxiv.org/abs/2307.03042)."""


class ReadTable(ManifestPart):
    """One table that was read."""

    path: str
    size: int
    sha256: str
    records: int
    bad_records: int
    bad_reasons: dict[str, int]
    left_out: dict[str, int]
    """Records that were left out, by the reason; others are not needed or were used."""


class OutcomesManifest(ManifestPart):
    """What a folder of outcome tables is."""

    format: Literal[1] = 1
    run: str
    code: str
    data_use: Literal["open", "credentialed"]
    settings: dict[str, Any]
    """What of the recipe decided it."""
    fingerprint: str
    """Checksum of these, and of the names and sizes of the tables that were read."""
    tables: dict[str, ReadTable]
    """By the recipe's key."""
    left_out: dict[str, dict[str, int]]
    """Admissions that were left out, by the reason: before the labels (`admissions`), and of each outcome."""
    sizes: dict[Outcome, dict[NoteSplit, int]]
    """Notes of each outcome and split."""
    published_sizes: dict[Outcome, dict[NoteSplit, int]]
    """Those of the published tables; empty for MIMIC-IV, of which none are published."""
    checksums: dict[str, str]
    """SHA-256 of each file."""


def decisive_settings(recipe: "OutcomesRecipe") -> dict[str, Any]:
    """Return what of a recipe decides what is made, but for the content of the tables that it names."""
    settings = {key: getattr(recipe, key) for key in ("data_use", "rules", "split_seed")}
    return settings | {"format": recipe.source.format, "tables": sorted(one.key for one in recipe.inputs())}


def read_outcomes(folder: Path) -> OutcomesManifest:
    """Read the manifest of a folder of outcome tables.

    Raises:
        LauncherError: there is none, or it is damaged.
    """
    path = folder / MANIFEST
    try:
        return OutcomesManifest.model_validate_json(path.read_bytes())
    except FileNotFoundError:
        raise LauncherError(f"{folder}: holds no complete outcome tables") from None
    except ValidationError as error:
        first = error.errors(include_input=False, include_url=False)[0]
        key = ".".join(map(str, first["loc"]))
        raise LauncherError(f"{path}: {key}: {first['msg']}; remove the folder and make it again") from None
