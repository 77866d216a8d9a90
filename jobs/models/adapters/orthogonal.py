"""An adapter that is trained to stay orthogonal to a base adapter (MedCare's second stage, and O-LoRA).

    y = W0 x + s_b B_b A_b x + s B_o A_o x
    loss + lambda1 * sum over layers of sum_ij |A_b A_o^T|_ij + lambda2 * sum over layers of (|A_o|_2 + |B_o|_2)

The base adapter (b) starts as the shared experts of a mixture of LoRAs, or as a LoRA, and keeps that one's scale; the
new one (o) starts as LoRA does. lambda1 is MedCare's (https://arxiv.org/abs/2406.17484), after O-LoRA
(https://arxiv.org/abs/2310.14152); lambda2, which MedCare's code reads and does not use, is that of O-LoRA's code: the
L2 norm of each new matrix (https://github.com/cmnfriend/O-LoRA). In MedCare's code the first penalty has no gradient
under ZeRO, since it is computed from copies; here each layer computes it from the parameters that it uses.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftConfig, PeftModel
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn
from torch.nn import functional
from typing_extensions import override

from jobs.models.adapters.custom_lora import (
    UPDATE,
    CustomLoraLinear,
    CustomLoraModel,
    Update,
    like,
    low_rank,
    register_method,
    scale_of,
    widths,
)
from jobs.models.folder import local_folder
from jobs.rank.context import Context
from launcher.artifacts.adapter_folder import MOLORA, WEIGHTS, is_credentialed, read_adapter
from launcher.errors import LauncherError
from launcher.recipe.kinds.training import TrainingRecipe
from launcher.recipe.sections.adapter import Adapter
from launcher.recipe.sections.molora import Orthogonal

PEFT_TYPE = "ORTHOGONAL"
"""While it is trained. It is exported as LoRA."""
_BASE = ("base_A", "base_B")


@dataclass
class OrthogonalConfig(LoraConfig):
    """peft's configuration of LoRA, which describes the new adapter, and the base adapter."""

    base_r: int = 16
    """Rank of the base adapter."""
    base_scale: float = 1.0
    """Its updates are scaled by this."""
    base_trains: bool = True
    """Whether it goes on training."""
    lambda1: float = 0.0
    """Weight of the overlap of both."""
    lambda2: float = 0.0
    """Weight of the size of the new one."""

    @override
    def __post_init__(self) -> None:
        super().__post_init__()  # type: ignore[no-untyped-call]
        self.peft_type = PEFT_TYPE


class Pair(Update):
    """The updates of both adapters. All parameters are the module's own, so they are whole wherever it computes."""

    def __init__(self, inputs: int, outputs: int, config: OrthogonalConfig) -> None:
        super().__init__()
        self._scales = (config.base_scale, scale_of(config.lora_alpha, config.r, config.use_rslora))
        self._lambdas = (config.lambda1, config.lambda2)
        self.dropout = nn.Dropout(config.lora_dropout)
        self.base_A, self.base_B = low_rank(inputs, outputs, config.base_r)
        self.new_A, self.new_B = low_rank(inputs, outputs, config.r)

    @override
    def forward(self, x: Tensor) -> Tensor:
        x = self.dropout(like(x, self.new_A))
        base = self._scales[0] * functional.linear(x, self.base_A)
        new = self._scales[1] * functional.linear(x, self.new_A)
        update = functional.linear(torch.cat([base, new], -1), torch.cat([self.base_B, self.new_B], 1))
        return self.auxiliary.attach(update, self.penalty()) if any(self._lambdas) and self.adds_to_loss else update

    @contextmanager
    def without_new(self) -> Iterator[None]:
        """Compute what the base adapter adds, as if the new one were still zero."""
        scales, self._scales = self._scales, (self._scales[0], 0.0)
        try:
            yield
        finally:
            self._scales = scales

    def penalty(self) -> Tensor:
        """What this layer adds to the loss, in fp32."""
        overlap, size = self._lambdas
        with torch.autocast(self.new_A.device.type, enabled=False):
            new = self.new_A.float()
            term = overlap * (self.base_A.float() @ new.T).abs().sum()
            return term + size * (new.norm() + self.new_B.float().norm()) if size else term


class OrthogonalModel(CustomLoraModel):
    """Pairs of adapters on all targets."""

    @override
    def make_update(self, config: OrthogonalConfig, target_name: str, target: nn.Module) -> Update | None:
        return Pair(*widths(target), config)


@dataclass(frozen=True)
class Start:
    """The adapter that the base adapter starts from."""

    folder: Path
    rank: int
    scale: float
    names: tuple[str, str]
    """Of its factors, after the name of the layer."""

    def factors(self, layer: str) -> tuple[Tensor, Tensor]:
        """Read the factors A and B of a layer.

        Raises:
            LauncherError: the adapter has none for it.
        """
        with safe_open(self.folder / WEIGHTS, "pt") as file:
            try:
                a, b = (file.get_tensor(f"{layer}.{name}") for name in self.names)
            except SafetensorError as error:
                raise LauncherError(
                    f"adapter.start_from: `{self.folder.name}` has no `{layer}.{self.names[0]}`; name an adapter of "
                    "this model, or other `targets`"
                ) from error
        return a, b


def located(context: Context, recipe: TrainingRecipe) -> Adapter | None:
    """Return the recipe's adapter, with the local folder that it starts from.

    Raises:
        LauncherError: there is none, or it was made of credentialed data and the recipe says `open`.
    """
    adapter = recipe.adapter
    if not isinstance(adapter, Orthogonal):
        return adapter
    folder = local_folder(context.model_path(adapter.start_from), "adapter.start_from")
    if recipe.data_use == "open" and is_credentialed(folder):
        raise LauncherError(f"data_use: `{folder}` was made of credentialed data; write `credentialed`")
    return adapter.model_copy(update={"start_from": str(folder)})


def find_start(folder: Path) -> Start:
    """Read what an adapter offers to start from: a mixture of LoRAs its shared experts, LoRA all of it.

    Raises:
        LauncherError: it is of another kind, or has no shared experts.
    """
    config = read_adapter(folder).config
    kind, shared = config.get("peft_type"), config.get("shared_experts", 0)
    is_varied = config.get("rank_pattern") or config.get("alpha_pattern") or config.get("use_dora")
    if kind not in (MOLORA, "LORA") or (kind == MOLORA and not shared) or is_varied:
        raise LauncherError(
            f"adapter.start_from: `{folder.name}` is neither a `molora` adapter with shared experts nor a LoRA "
            "adapter of one rank; name one of these"
        )
    scale = scale_of(config["lora_alpha"], config["r"], bool(config.get("use_rslora")))
    if kind == MOLORA:
        return Start(folder, config["r"] * shared, scale, (f"{UPDATE}.shared_A", f"{UPDATE}.shared_B"))
    return Start(folder, config["r"], scale, ("lora_A.weight", "lora_B.weight"))


def configure(adapter: Orthogonal, task: str) -> PeftConfig:
    """Express a recipe's section in peft's terms.

    Raises:
        LauncherError: the base adapter has another rank than the recipe says.
    """
    register()
    start = find_start(Path(adapter.start_from))
    if start.rank != adapter.base_rank:
        raise LauncherError(
            f"adapter.base_r: the base adapter from `{start.folder.name}` has rank {start.rank}, not "
            f"{adapter.base_rank}; write `{start.rank}`"
        )
    return OrthogonalConfig(
        task_type=task,
        r=adapter.r,
        lora_alpha=adapter.alpha,  # type: ignore[arg-type] # any number will do
        lora_dropout=adapter.dropout,
        target_modules=[*adapter.targets],
        base_r=start.rank,
        base_scale=start.scale,
        base_trains=adapter.base_trains,
        lambda1=adapter.lambda1,
        lambda2=adapter.lambda2,
    )


def load_start(model: PeftModel, adapter: Orthogonal) -> None:
    """Load the base adapter of each layer.

    Raises:
        LauncherError: there is none for a layer, or one of another shape.
    """
    start = find_start(Path(adapter.start_from))
    for name, module in model.named_modules():
        if not isinstance(module, CustomLoraLinear):
            continue
        pair: Any = module.lora_update["default"]
        for parameter, tensor in zip((pair.base_A, pair.base_B), start.factors(name), strict=True):
            if parameter.shape != tensor.shape:
                raise LauncherError(
                    f"adapter.start_from: `{start.folder.name}` belongs to another model: {name} has a factor of shape "
                    f"{tuple(tensor.shape)} there, {tuple(parameter.shape)} here"
                )
            parameter.data.copy_(tensor)


def is_base(name: str) -> bool:
    """Tell by its name whether a parameter belongs to a base adapter."""
    return f".{UPDATE}." in name and name.endswith(_BASE)


def as_lora(config: OrthogonalConfig, tensors: dict[str, Tensor]) -> tuple[LoraConfig, dict[str, Tensor]]:
    """Write both adapters as one LoRA that computes the same: [s_b B_b, s B_o] [A_b; A_o], with a scale of 1.

    Args:
        config: The pair's.
        tensors: As peft saves them.
    """
    scale = scale_of(config.lora_alpha, config.r, config.use_rslora)
    fused = {name: tensor for name, tensor in tensors.items() if f".{UPDATE}." not in name}
    for name, base_a in tensors.items():
        layer, ending, _ = name.partition(f".{UPDATE}.base_A")
        if ending:
            base_b, new_a, new_b = (tensors[f"{layer}.{UPDATE}.{part}"] for part in ("base_B", "new_A", "new_B"))
            fused[f"{layer}.lora_A.weight"] = torch.cat([base_a, new_a])
            fused[f"{layer}.lora_B.weight"] = torch.cat([config.base_scale * base_b, scale * new_b], dim=1)
    rank = config.base_r + config.r
    lora = LoraConfig(
        task_type=config.task_type,
        r=rank,
        lora_alpha=rank,
        base_model_name_or_path=config.base_model_name_or_path,
        lora_dropout=config.lora_dropout,
        target_modules=config.target_modules,
        modules_to_save=config.modules_to_save,
        inference_mode=True,
    )
    return lora, fused


def register() -> None:
    """Let peft know the method, in this process."""
    register_method(PEFT_TYPE, OrthogonalConfig, OrthogonalModel)
