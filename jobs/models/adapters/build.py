"""Adapters: from the recipe's section to peft's model, and what of it a checkpoint holds."""

from typing import Any

import peft
from peft import LoraConfig, PeftConfig, PeftModel
from peft.tuners.lora import LoraLayer
from torch import nn
from transformers import PreTrainedModel, set_seed
from transformers.pytorch_utils import Conv1D

from jobs.models.adapters import molora, orthogonal
from jobs.models.adapters.adalora import penalise_once
from jobs.models.adapters.peft_warnings import silence_peft_warnings
from jobs.models.embeddings import train_embeddings
from jobs.models.value_head import VALUE_HEAD
from launcher.artifacts.tokenizer_manifest import Expansion
from launcher.errors import LauncherError
from launcher.recipe.names import target_faults
from launcher.recipe.sections.adapter import (
    IA3,
    OFT,
    AdaLora,
    Adapter,
    AdaptionPrompt,
    Lora,
    PrefixTuning,
    PromptTuning,
    PTuning,
)
from launcher.recipe.sections.molora import MoLora, Orthogonal


def adapted(
    model: PreTrainedModel, adapter: Adapter, seed: int, task: str, steps: int, expansion: Expansion | None = None
) -> PeftModel:
    """Freeze a model and add an adapter to it, in fp32 whatever the model's format is.

    Args:
        model: The base.
        adapter: The recipe's section.
        seed: For the adapter's initialisation; every rank draws the same weights.
        task: peft's name for what the model does, e.g. `CAUSAL_LM`.
        steps: Optimizer steps of the whole training.
        expansion: Tokens added to the model since it was published.

    Raises:
        LauncherError: the model lacks a target, or peft cannot build the adapter.
    """
    require_targets(model, adapter)
    config = peft_config(adapter, task, str(model.name_or_path), steps)
    if isinstance(config, LoraConfig) and isinstance(adapter, Lora):
        train_embeddings(config, model, adapter.embeddings, expansion)
    set_seed(seed)
    try:
        with silence_peft_warnings():
            built: PeftModel = peft.get_peft_model(model, config)
    except ValueError as error:  # missing layers, or widths that do not divide
        raise LauncherError(f"adapter: peft cannot build `{adapter.method}` on this model ({error})") from error
    if isinstance(adapter, Lora) and adapter.init == "olora":
        _refuse_transposed(built)
    if isinstance(adapter, Orthogonal):
        orthogonal.load_start(built, adapter)
    if isinstance(adapter, AdaLora):
        penalise_once(built)
    declared = declared_trainable(built)
    for name, parameter in built.named_parameters():
        if name in declared:
            parameter.data = parameter.data.float()  # peft keeps adaption prompts in the base's format
        else:
            parameter.requires_grad_(False)  # peft 0.21 unfreezes AdaLoRA's rank counts
    return built


def require_targets(model: nn.Module, adapter: Adapter) -> None:
    """Refuse an adapter if one of its targets is no module of the model.

    Raises:
        LauncherError: names the key, and the modules that there are.
    """
    modules = dict(model.named_modules())
    layers = [name for name, module in modules.items() if _has_matrix(module)]
    if said := [f"{key}: {message}" for key, message in target_faults(adapter, modules, layers)]:
        raise LauncherError("\n".join(said))


def _has_matrix(module: nn.Module) -> bool:
    weight = getattr(module, "weight", None)
    # ZeRO-3 leaves an empty vector where a weight was, and keeps its shape here.
    return weight is not None and len(getattr(weight, "ds_shape", weight.shape)) == 2


def _refuse_transposed(model: PeftModel) -> None:
    """Refuse layers whose weights are stored as inputs x outputs: peft's `olora` takes A for B there."""
    layers = ((name, module) for name, module in model.named_modules() if isinstance(module, LoraLayer))
    found = next((name for name, layer in layers if isinstance(layer.get_base_layer(), Conv1D)), None)
    if found:
        raise LauncherError(
            f"adapter.init: `olora` does not work with the layout of the weights of `{found.rpartition('.')[2]}` "
            "(transformers' Conv1D); write `pissa`, which moves their principal part as well"
        )


def declared_trainable(model: nn.Module, adapters: tuple[str, ...] = ("default",)) -> frozenset[str]:
    """Name the parameters to train: those of an adapted model's adapters and value head, else all.

    Args:
        model: Adapted or not.
        adapters: Names of the adapters to train; others stay frozen.
    """
    if not isinstance(model, PeftModel):
        return frozenset(name for name, parameter in model.named_parameters() if parameter.requires_grad)
    frozen_base = not getattr(model.peft_config["default"], "base_trains", True)
    biases = {getattr(model.peft_config[adapter], "bias", "none") for adapter in adapters} - {"none"}
    return frozenset(
        name
        for name, parameter in model.named_parameters()
        if (
            any(adapter in name.split(".") for adapter in adapters)
            and "ranknum" not in name
            and "original_module" not in name
            and not (frozen_base and orthogonal.is_base(name))
        )
        or "adaption_" in name
        or VALUE_HEAD in name.split(".")
        or (biases and name.endswith(".bias") and parameter.requires_grad)
    )


def peft_config(adapter: Adapter, task: str, base: str, steps: int) -> PeftConfig:
    """Express a recipe's section in peft's terms."""
    match adapter:
        case Lora():
            return _lora(adapter, task)
        case AdaLora():
            return _adalora(adapter, task, steps)
        case PrefixTuning() | PromptTuning() | PTuning():
            return _prompt(adapter, task, base)
        case IA3() | OFT() | AdaptionPrompt():
            return _inside(adapter, task)
        case MoLora():
            return molora.configure(adapter, task)
        case Orthogonal():
            return orthogonal.configure(adapter, task)


def _lora(adapter: Lora, task: str) -> PeftConfig:
    return peft.LoraConfig(
        task_type=task,
        r=adapter.r,
        lora_alpha=adapter.alpha,  # type: ignore[arg-type] # any number will do
        lora_dropout=adapter.dropout,
        target_modules=_targets(adapter.targets),
        use_rslora=adapter.rslora,
        use_dora=adapter.dora,
        init_lora_weights=True if adapter.init == "default" else adapter.init,
        bias=adapter.bias,
    )


def _adalora(adapter: AdaLora, task: str, steps: int) -> PeftConfig:
    tinit, tfinal = adapter.tinit.steps(steps), adapter.tfinal.steps(steps)
    if tinit + tfinal >= steps:
        raise LauncherError(
            f"adapter.tinit: {tinit} steps and `tfinal` ({tfinal}) leave none of {steps} steps to reduce ranks in; "
            "write less"
        )
    return peft.AdaLoraConfig(
        task_type=task,
        init_r=adapter.init_r,
        target_r=adapter.target_r,
        lora_alpha=adapter.alpha,  # type: ignore[arg-type] # any number will do
        lora_dropout=adapter.dropout,
        target_modules=_targets(adapter.targets),
        tinit=tinit,
        tfinal=tfinal,
        deltaT=adapter.delta_t,
        beta1=adapter.beta1,
        beta2=adapter.beta2,
        orth_reg_weight=adapter.orth_reg_weight,
        total_step=steps,
    )


def _prompt(adapter: PrefixTuning | PromptTuning | PTuning, task: str, base: str) -> PeftConfig:
    common: dict[str, Any] = {"task_type": task, "num_virtual_tokens": adapter.virtual_tokens}
    match adapter:
        case PrefixTuning():
            hidden: Any = adapter.hidden  # None means: as wide as the model
            return peft.PrefixTuningConfig(**common, prefix_projection=adapter.projection, encoder_hidden_size=hidden)
        case PTuning():
            return peft.PromptEncoderConfig(
                **common,
                encoder_reparameterization_type=adapter.encoder.upper(),
                encoder_hidden_size=adapter.hidden,
                encoder_num_layers=adapter.layers,
                encoder_dropout=adapter.dropout,
            )
    if adapter.init_text is None:
        return peft.PromptTuningConfig(**common, prompt_tuning_init="RANDOM")
    return peft.PromptTuningConfig(
        **common, prompt_tuning_init="TEXT", prompt_tuning_init_text=adapter.init_text, tokenizer_name_or_path=base
    )


def _inside(adapter: IA3 | OFT | AdaptionPrompt, task: str) -> PeftConfig:
    match adapter:
        case IA3():
            return peft.IA3Config(
                task_type=task, target_modules=[*adapter.targets], feedforward_modules=[*adapter.feedforward]
            )
        case OFT():
            return peft.OFTConfig(
                task_type=task,
                r=0,
                oft_block_size=adapter.block_size,
                module_dropout=adapter.dropout,
                target_modules=_targets(adapter.targets),
            )
    return peft.AdaptionPromptConfig(task_type=task, adapter_len=adapter.length, adapter_layers=adapter.layers)


def _targets(targets: str | tuple[str, ...]) -> str | list[str]:
    return targets if isinstance(targets, str) else [*targets]
