"""Every way of training in each strategy that validation allows: preempted once, it has an uninterrupted run's losses.

It takes long, so `make test` leaves it out. `make long` runs it; docs/strategies.json and the table in the docs
are what it saw, and tests/train/test_strategies.py compares both with what validation refuses.
"""

import shutil
from pathlib import Path

import pytest
import torch
import yaml
from torch import nn
from transformers import AutoModelForCausalLM

from jobs.models.adapters.build import adapted
from jobs.models.adapters.save import write_adapter
from jobs.models.tokenizer import load_encoder
from jobs.train.adapter_checkpoint import gather_adapter
from launcher.devcluster import DevCluster
from launcher.run.ledger import read_json_lines
from launcher.run.paths import RunDir
from tests.models.test_adapters import adapter
from tests.models.test_embeddings import expand_tokenizer
from tests.slurm.site import Site, joined_losses, steps_by_attempt
from tests.support.corpora import make_corpus
from tests.support.preference_runs import write_pairs
from tests.support.prepare_runs import abstracts
from tests.support.strategy_table import STEPS, STRATEGIES, VARIANTS, Variant, recorded
from tests.support.training_runs import ASSETS, words
from tests.support.two_step_adapters import STORIES, make_clinical

pytestmark = pytest.mark.long


@pytest.fixture(scope="module")
def site(small_cluster: DevCluster) -> Site:
    """A cluster with all that the variants start from."""
    models, corpora = (small_cluster.layout.folder / name for name in ("models", "corpora"))
    (models / "stories260k").symlink_to(STORIES)
    make_clinical(models / "clinical")
    make_mixture(models / "mixture")
    expand_tokenizer(models / "expanded")
    encoder = load_encoder(str(models / "expanded"), "expanded")
    make_corpus(corpora / "abstracts", [encoder.encode(abstracts()[:60])])
    make_corpus(corpora / "words", [words(400)])
    data = small_cluster.layout.folder / "data"
    write_pairs(data, 24)  # training reads them more than once
    shutil.copy(ASSETS / "medquad_80.json.gz", data)
    return Site(small_cluster)


def make_mixture(folder: Path) -> None:
    """Make a mixture of LoRAs with something in it, as MedCare's first stage exports it."""
    [section] = [adapter(**variant.adapter) for variant in VARIANTS if variant.adapter and variant.name == "molora"]
    model = adapted(AutoModelForCausalLM.from_pretrained(STORIES), section, 1, "CAUSAL_LM", STEPS)
    for parameter in model.parameters():
        if parameter.requires_grad:
            nn.init.normal_(parameter, std=0.05, generator=torch.Generator().manual_seed(5))
    write_adapter(model, gather_adapter(model), "stories260k", folder)


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("variant", VARIANTS, ids=lambda variant: variant.name)
def test_what_is_allowed_and_preempted_once_has_the_losses_of_an_uninterrupted_run(
    site: Site, tmp_path: Path, variant: Variant, strategy: str
) -> None:
    if variant.is_refused(strategy):
        with recorded(variant, strategy, "refused"):
            site.launcher("validate", write(tmp_path, variant, strategy, "refused"), exit_code=2)
        return
    with recorded(variant, strategy, "equal"):
        [run] = site.submit(write(tmp_path, variant, strategy, "interrupted"))
        site.preempt(run, step=1)
        [whole] = site.submit(write(tmp_path, variant, strategy, "whole"))
        site.wait_until_finished(run)
        site.wait_until_finished(whole)

        assert sorted(joined_losses(whole)) == list(range(1, STEPS + 1))
        assert joined_losses(run) == joined_losses(whole)
        assert rewards(run) == rewards(whole)
        first, second = steps_by_attempt(run).values()
        assert second[0] == first[-1] + 1
        assert len(steps_by_attempt(whole)) == 1


def rewards(run: RunDir) -> dict[int, dict[str, float]]:
    """What was told of rewards in each step, if anything was."""
    return {
        row["step"]: {name: value for name, value in row.items() if name == "kl" or "reward" in name}
        for row in read_json_lines(run.metrics)
    }


def write(folder: Path, variant: Variant, strategy: str, name: str) -> Path:
    """Write a recipe."""
    path = folder / f"{name}.yaml"
    path.write_text(yaml.safe_dump(variant.recipe(strategy, name)))
    return path
