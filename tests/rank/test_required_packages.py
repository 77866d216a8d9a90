"""What a node must have installed for a recipe, and what is said where it does not."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from jobs.rank.required_packages import MODULES, require_packages
from launcher.errors import LauncherError
from launcher.recipe import KINDS, Recipe
from launcher.run.ledger import read_json_lines
from launcher.run.paths import NEVER_RESTART
from tests.support.import_scan import ROOT, declared, imported_with
from tests.support.training_runs import make_run_of

CORE = {"jinja2", "pydantic", "pydantic_core", "rich", "typing_extensions"}
BROUGHT_ALONG = {
    "align": {"datasets"},
    "data": {"backports", "compression", "loguru", "tokenizers"},
    "train": {"huggingface_hub", "tokenizers"},
}
"""What packages of an extra install, and what stands for one of them in a newer Python."""


@pytest.mark.parametrize("kind", KINDS)
def test_a_kind_imports_only_what_its_extras_install(kind: str) -> None:
    installed = set().union(*(BROUGHT_ALONG.get(extra, set()) | set(MODULES[extra]) for extra in KINDS[kind].extras))

    assert imported_with(f"jobs.kinds.{kind}") - CORE - installed == set()


def test_a_task_imports_nothing_of_an_extra_before_it_has_looked_what_is_there() -> None:
    assert imported_with("jobs.__main__") <= CORE


def test_extras_install_what_is_looked_for() -> None:
    names = {"ahocorasick": "pyahocorasick", "sklearn": "scikit-learn"}

    for extra, modules in MODULES.items():
        assert {names.get(module, module) for module in modules} <= set(declared()[extra]), extra


def test_strategy_and_quantisation_need_more(make_cpt: Callable[..., Recipe]) -> None:
    four_bits = {"path": "model", "quantization": {"bits": 4}}
    recipe = make_cpt(model=four_bits, adapter={"method": "lora"}, parallel={"strategy": "zero2"})

    assert recipe.required_extras() == ("train", "deepspeed", "quantization")


def test_wandb_is_needed_by_a_tracked_run(make_cpt: Callable[..., Recipe], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "wandb", None)

    require_packages(make_cpt(tracking={"mode": "disabled"}))
    with pytest.raises(LauncherError, match="`cpt` needs wandb, which "):
        require_packages(make_cpt(tracking={"mode": "offline"}))


def test_a_missing_package_ends_a_run_for_good_and_names_the_extra(
    tmp_path: Path, make_recipe: Callable[..., Recipe]
) -> None:
    run = make_run_of(json.loads(make_recipe().model_dump_json()), tmp_path)
    (tmp_path / "sitecustomize.py").write_text("import sys\nsys.modules['orjson'] = None\n")
    alone = {"RANK": "0", "WORLD_SIZE": "1", "LOCAL_RANK": "0", "LOCAL_WORLD_SIZE": "1", "NODE_RANK": "0"}

    done = subprocess.run(
        [sys.executable, "-m", "jobs", str(run.root)],
        env=alone | {"PYTHONPATH": f"{tmp_path}:{ROOT}"},
        capture_output=True,
        text=True,
        check=False,
    )

    assert done.returncode == NEVER_RESTART, done.stderr
    assert "kind: `prepare` needs orjson, which" in done.stderr
    assert "install them there with `pip install -e '.[data]'` in a checkout, or with the wheel" in done.stderr
    assert any("needs orjson" in row.get("fault", "") for row in read_json_lines(run.ledger))
