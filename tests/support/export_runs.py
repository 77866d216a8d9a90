"""Running `export` in tests: small models, and a task that is not under Slurm."""

import json
from collections.abc import Sequence
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, BertConfig, BertForSequenceClassification

from jobs.kinds.export import main
from jobs.rank.context import Context
from launcher.recipe.kinds.export import ExportRecipe
from tests.support.prepare_runs import ASSETS, context_of

LLAMA = ASSETS / "stories260k"


def export_recipe(**changes: object) -> ExportRecipe:
    """A recipe; `changes` replace its keys."""
    fields = {"kind": "export", "name": "export", "model": {"path": "model"}, "format": "safetensors", "output": "made"}
    fields |= {"latency": [], "resources": {"time": "10min"}, **changes}
    return ExportRecipe.model_validate_json(json.dumps(fields))


def make_export(folder: Path, **changes: object) -> Context:
    """A task of an export whose models lie in `folder`/models; the shipped one is `model` unless there is another."""
    models = folder / "models"
    models.mkdir(exist_ok=True)
    if not (models / "model").exists():
        (models / "model").symlink_to(LLAMA)
    return context_of(folder, export_recipe(**changes), models)


def exported_by(context: Context) -> Path:
    """Carry out an export; return its folder."""
    main(context)
    return Path(context.model_path("made"))


def one_layer(folder: Path) -> Path:
    """The shipped model without its upper layers, as `folder`/models/model: it is traced in a fifth of the time."""
    path = folder / "models" / "model"
    model = AutoModelForCausalLM.from_pretrained(LLAMA)
    model.model.layers = model.model.layers[:1]
    model.config.num_hidden_layers = 1
    model.save_pretrained(path)
    AutoTokenizer.from_pretrained(LLAMA).save_pretrained(path)
    return path


def encoder_classifier(folder: Path, names: Sequence[str] = ("a", "b", "c"), **changes: object) -> Path:
    """An encoder of one layer with a head, as `folder`/models/model; as `kind: classify` exports it."""
    labels = {"id2label": dict(enumerate(names)), "label2id": {name: place for place, name in enumerate(names)}}
    path, source = folder / "models" / "model", ASSETS / "random_bert"
    torch.manual_seed(1)
    shape = {"num_hidden_layers": 1, "initializer_range": 0.2}
    config = BertConfig.from_pretrained(source, num_labels=len(names), **labels, **shape, **changes)
    model = BertForSequenceClassification(config)
    model.save_pretrained(path)
    AutoTokenizer.from_pretrained(source).save_pretrained(path)
    return path
