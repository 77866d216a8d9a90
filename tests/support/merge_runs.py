"""Running `merge` in tests: adapters as peft saves them, and a task that is not under Slurm."""

import json
import shutil
import warnings
from pathlib import Path

import torch
from peft import LoraConfig, PeftConfig, get_peft_model
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel

from jobs.kinds.merge import main
from jobs.rank.context import Context
from launcher.recipe.kinds.merge import MergeRecipe
from tests.support.prepare_runs import ASSETS, context_of

BASE = ASSETS / "stories260k"


def make_base(folder: Path, **changes: object) -> Path:
    """A copy of the shipped model below `folder`/models; `changes` go into its configuration."""
    base = folder / "models" / "stories260k"
    shutil.copytree(BASE, base)
    config = json.loads((base / "config.json").read_text()) | changes
    (base / "config.json").write_text(json.dumps(config))
    return base


def make_adapter(
    folder: Path,
    config: PeftConfig | None = None,
    base: Path = BASE,
    rows: int | None = None,
    **saving: object,
) -> Path:
    """An adapter that says something: peft's own, with noise (by its name) on what it trains, as peft saves it."""
    torch.manual_seed(sum(folder.name.encode()))
    model = load(base)
    if rows:
        model.resize_token_embeddings(rows, mean_resizing=False)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # peft's advice about tied embeddings
        adapted = get_peft_model(model, config or lora())
        with torch.no_grad():
            for parameter in adapted.parameters():
                if parameter.requires_grad:
                    parameter.add_(torch.randn_like(parameter), alpha=0.05)
        adapted.save_pretrained(folder, **saving)
    return folder


def lora(*targets: str, **changes: object) -> LoraConfig:
    """LoRA on some layers; all linear ones if none is named."""
    fields = {"r": 4, "lora_alpha": 8, "task_type": "CAUSAL_LM", "target_modules": [*targets] or "all-linear"}
    return LoraConfig(**fields | changes)


def make_merge(folder: Path, *adapters: object, **changes: object) -> Context:
    """A task of a merge whose models lie in `folder`/models and whose recipe lies in `folder`."""
    if not (folder / "models").exists():
        make_base(folder)
    fields = {
        "kind": "merge",
        "name": "merge",
        "base_model": "stories260k",
        "adapters": [{"path": one} if isinstance(one, str) else one for one in adapters],
        "output": "merged",
        "resources": {"time": "10min"},
    }
    recipe = MergeRecipe.model_validate_json(json.dumps(fields | changes))
    return context_of(folder, recipe, folder / "models")


def fp32(folder: Path, *adapters: object, **changes: object) -> Context:
    """A task of a merge whose result is not rounded."""
    return make_merge(folder, *adapters, dtype="fp32", **changes)


def merged_by(context: Context) -> Path:
    """Carry out a merge; return the folder of the model."""
    main(context)
    assert isinstance(context.recipe, MergeRecipe)
    return Path(context.model_path(context.recipe.output or ""))


def load(folder: Path) -> PreTrainedModel:
    """Load a model as anybody does, in fp32."""
    model: PreTrainedModel = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    return model.eval()


def tensors(folder: Path) -> dict[str, torch.Tensor]:
    """All tensors of a model or adapter in a folder."""
    return {name: tensor for path in sorted(folder.glob("*.safetensors")) for name, tensor in load_file(path).items()}


def logits(model: torch.nn.Module, *more: int) -> torch.Tensor:
    """The logits on a sentence, and on some more tokens after it."""
    ids = AutoTokenizer.from_pretrained(BASE)("The patient was given insulin, and went home.")["input_ids"]
    with torch.inference_mode():
        return model(input_ids=torch.tensor([[*ids, *more]])).logits[0]
