"""Rehearsals that differ from others in their data: each trains, exports, and has the losses that were recorded.

Without Slurm, by a rank that has imported already; tests/slurm/test_rehearsals.py submits one of each sort.
"""

from pathlib import Path

import pytest

from launcher.load import load_recipes
from launcher.run.paths import FINISHED
from tests.slurm.site import FEW_STEPS, RECIPES, SMALL, manifest, recorded_losses
from tests.support.training_runs import losses, make_run_of, train

pytestmark = pytest.mark.slow


@pytest.mark.parametrize(
    ("name", "has_recorded_losses"),
    [
        ("biomed_llama_medmcqa", True),
        ("biomed_llama_pubmedqa", True),
        ("clinical_baseline_los", True),
        ("clinical_baseline_pmv", True),
        ("clinical_baseline_proc", True),
        ("medicalgpt_reward", True),
        ("medicalgpt_rloo", False),  # what is sampled depends on the last digits, and so on the machine
    ],
)
def test_a_rehearsal_trains_and_exports(tmp_path: Path, name: str, has_recorded_losses: bool) -> None:
    (tmp_path / "assets").symlink_to(RECIPES / "assets")
    # Without a name for others: it would be a link beside the assets of this checkout.
    [loaded] = load_recipes(RECIPES / f"{name}.yaml", (*SMALL, "output=null"), rehearse=True)
    run = make_run_of(loaded.recipe.model_dump(mode="json"), tmp_path)

    attempt = train(run)

    assert attempt.exit_codes == [FINISHED], attempt.log()
    assert list(losses(run)) == list(range(1, FEW_STEPS + 1))
    if has_recorded_losses:
        assert list(losses(run).values()) == recorded_losses(name.replace("_", "-"))
    assert manifest(run.outputs / "model")["run"] == "abc123"
