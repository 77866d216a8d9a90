"""Adapters: from the recipe's section to peft's model, and what of it a checkpoint holds."""

from typing import Any

import peft
from peft import LoraConfig, PeftConfig, PeftModel
from torch import nn
from transformers import PreTrainedModel, set_seed

from jobs.models import molora, orthogonal
from jobs.models.adalora import penalise_once
from jobs.models.new_tokens import train_embeddings
from jobs.models.quiet import quiet_peft
from launcher.errors import LauncherError
from launcher.expansion import Expansion
from launcher.recipe.adapter import (
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
from launcher.recipe.molora import MoLora, Orthogonal


def adapted(
    model: PreTrainedModel, adapter: Adapter, seed: int, task: str, steps: int, expansion: Expansion | None = None
) -> PeftModel:
    """Freeze a model and put an adapter beside it, in fp32 whatever the model's format is.

    Args:
        model: The base.
        adapter: The recipe's section.
        seed: For the adapter's initialisation; every rank draws the same weights.
        task: peft's name for what the model does, e.g. `CAUSAL_LM`.
        steps: Optimizer steps of the whole training.
        expansion: Tokens that the model has got since it was published.
    """
    config = peft_config(adapter, task, str(model.name_or_path), steps)
    if isinstance(config, LoraConfig) and isinstance(adapter, Lora):
        train_embeddings(config, model, adapter.embeddings, expansion)
    set_seed(seed)
    try:
        with quiet_peft():
            built: PeftModel = peft.get_peft_model(model, config)
    except ValueError as error:  # layers that are not there, widths that do not come out even
        raise LauncherError(f"adapter: peft cannot build `{adapter.method}` on this model ({error})") from error
    if isinstance(adapter, Orthogonal):
        orthogonal.load_start(built, adapter)
    if isinstance(adapter, AdaLora):
        penalise_once(built)
    declared = declared_trainable(built)
    for name, parameter in built.named_parameters():
        if name in declared:
            parameter.data = parameter.data.float()  # peft leaves those of adaption prompts as the base is
        else:
            parameter.requires_grad_(False)  # peft 0.21 thaws AdaLoRA's rank counts while it casts them
    return built


def declared_trainable(model: nn.Module, adapters: tuple[str, ...] = ("default",)) -> frozenset[str]:
    """Name the parameters that are to be trained: of an adapted model the adapters', by their names, else all.

    Args:
        model: Adapted or not.
        adapters: Names of the adapters to train; others are to stay frozen.
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
        lora_alpha=adapter.alpha,
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
            f"adapter.tinit: {tinit} steps and `tfinal` ({tfinal}) leave no step of {steps} to cut ranks in; write less"
        )
    return peft.AdaLoraConfig(
        task_type=task,
        init_r=adapter.init_r,
        target_r=adapter.target_r,
        lora_alpha=adapter.alpha,
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
            return peft.PrefixTuningConfig(
                **common, prefix_projection=adapter.projection, encoder_hidden_size=adapter.hidden
            )
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
