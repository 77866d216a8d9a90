"""The files of an exported adapter: peft's format, so that others can load it without this launcher."""

from pathlib import Path

from peft import LoraConfig, PeftModel
from peft.utils import get_peft_model_state_dict
from safetensors.torch import load_file, save_file
from torch import Tensor

from jobs.models.adapters.custom_lora import UPDATE
from jobs.models.adapters.molora import MoLoraConfig
from jobs.models.adapters.orthogonal import OrthogonalConfig, as_lora
from launcher.artifacts.adapter_folder import WEIGHTS

ATTENTION = "attention"
"""Folder for the ordinary LoRA of a mixture of LoRAs."""


def write_adapter(model: PeftModel, weights: dict[str, Tensor], base: str, folder: Path) -> None:
    """Write an adapter as peft does, with the recipe's name of its base: paths of this site are no use elsewhere.

    Args:
        model: Says what kind of adapter it is.
        weights: Its tensors, whole.
        base: The recipe's name of the base.
        folder: Made here.
    """
    for config in model.peft_config.values():
        config.base_model_name_or_path = base
    config = model.peft_config["default"]
    if isinstance(config, OrthogonalConfig):
        _write_fused(model, config, weights, folder)
        return
    others = [name for name in model.peft_config if any(f".{name}." in key for key in weights) and name != "default"]
    # Embeddings are never changed here; peft would ask the Hugging Face Hub whether they might have been.
    model.save_pretrained(
        str(folder), state_dict=weights, save_embedding_layers=False, selected_adapters=["default", *others]
    )
    (folder / "README.md").unlink(missing_ok=True)  # a form to be filled in, with the base's path
    if isinstance(config, MoLoraConfig):
        _write_attention(config, folder)


def _write_fused(model: PeftModel, config: OrthogonalConfig, weights: dict[str, Tensor], folder: Path) -> None:
    """Write a pair of adapters as the LoRA that computes the same; plain peft cannot have both otherwise."""
    tensors = get_peft_model_state_dict(model, state_dict=weights, save_embedding_layers=False)
    lora, fused = as_lora(config, tensors)
    lora.save_pretrained(str(folder))
    save_file(fused, folder / WEIGHTS, metadata={"format": "pt"})


def _write_attention(config: MoLoraConfig, folder: Path) -> None:
    """Write the ordinary LoRA of a mixture as an adapter of its own, which plain peft loads."""
    lora = LoraConfig(
        task_type=config.task_type,
        base_model_name_or_path=config.base_model_name_or_path,
        r=config.r,
        lora_alpha=config.lora_alpha,
        lora_dropout=config.lora_dropout,
        use_rslora=config.use_rslora,
        target_modules=sorted(set(config.target_modules or ()) - set(config.ffn_modules or ())),
        modules_to_save=config.modules_to_save,
        inference_mode=True,
    )
    tensors = {name: tensor for name, tensor in load_file(folder / WEIGHTS).items() if f".{UPDATE}." not in name}
    lora.save_pretrained(str(folder / ATTENTION))
    save_file(tensors, folder / ATTENTION / WEIGHTS, metadata={"format": "pt"})
