"""kind: rl with models that bring more than weights: code of their own, generation settings, noise that has no name."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoTokenizer

from launcher.run.ledger import read_json_lines
from launcher.run.paths import FINISHED, NEVER_RESTART
from tests.support.rl_runs import TOKEN, make_rl, told
from tests.support.training_runs import ASSETS, train

pytestmark = pytest.mark.slow

RLOO = {"name": "rloo", "generations": 4, "kl_weight": 0.05}
GRPO = {"name": "grpo", "generations": 4}
QUIET = """
from transformers import LlamaForCausalLM

class OwnLlama(LlamaForCausalLM):
    pass
"""
NOISY = """
from torch.nn.functional import dropout
from transformers import LlamaForCausalLM

class OwnLlama(LlamaForCausalLM):
    def __init__(self, config):
        super().__init__(config)
        layer = self.model.layers[1].mlp
        layer.register_forward_hook(lambda layer, given, output: dropout(output, 0.1, layer.training))
"""


def make_model(folder: Path, code: str, **generation: Any) -> dict[str, Any]:
    """A Llama with code of its own, and settings in its generation_config.json; return the recipe's section."""
    shutil.copytree(ASSETS / "stories260k", folder)
    config = json.loads((folder / "config.json").read_text())
    config["auto_map"] = {"AutoModelForCausalLM": "modeling_own.OwnLlama"}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "modeling_own.py").write_text(code)
    settings = json.loads((folder / "generation_config.json").read_text()) | generation
    (folder / "generation_config.json").write_text(json.dumps(settings))
    return {"path": f"./{folder.name}", "trust_remote_code": True}


@pytest.mark.parametrize("is_adapted", [False, True], ids=["with a reference", "adapted"])
def test_completions_are_sampled_without_what_was_published(tmp_path: Path, is_adapted: bool) -> None:
    """With the published settings, each completion would be one token, again and again."""
    the = AutoTokenizer.from_pretrained(ASSETS / "stories260k").get_vocab()[TOKEN]
    banned = [number for number in range(512) if number != the]
    model = make_model(tmp_path / "own", QUIET, suppress_tokens=banned)
    algorithm, adapter = (GRPO, {"method": "lora", "r": 2}) if is_adapted else (RLOO, None)

    run = make_rl(tmp_path, algorithm, model=model, adapter=adapter, schedule={"length": "1 steps"})
    attempt = train(run)

    assert attempt.exit_codes == [FINISHED], attempt.log()
    [(reward,)] = told(run, "reward").values()
    assert reward < 0.2
    assert len({row["completion"] for row in read_json_lines(run.samples)}) > 1
    exported = json.loads((run.outputs / "model" / "generation_config.json").read_text())
    assert exported["suppress_tokens"] == banned, "whoever uses the model wants it as it was published"


def test_noise_that_cannot_be_switched_off_ends_the_training(tmp_path: Path) -> None:
    run = make_rl(tmp_path, GRPO, model=make_model(tmp_path / "own", NOISY), schedule={"length": "1 steps"})

    attempt = train(run)

    assert attempt.exit_codes == [NEVER_RESTART]
    assert "model.path: in training this model computes with random numbers" in attempt.log()
