"""kind: dpo - a language model learns to prefer one of two answers, without a reward model."""

from collections.abc import Iterator
from typing import Annotated, Literal, TypeAlias

from pydantic import Field
from typing_extensions import override

from launcher.recipe.base import Input, Scale
from launcher.recipe.kinds.preference import PairEvaluation, PreferenceRecipe
from launcher.recipe.quantities import Length
from launcher.recipe.sections.adapter import AdaptionPrompt, Lora
from launcher.recipe.sections.molora import Orthogonal
from launcher.recipe.sections.reference import Reference

PairLoss: TypeAlias = Literal[
    "sigmoid",
    "hinge",
    "ipo",
    "robust",
    "exo_pair",
    "nca_pair",
    "bco_pair",
    "sppo_hard",
    "apo_zero",
    "apo_down",
    "discopop",
    "sigmoid_norm",
]
Loss: TypeAlias = Literal[PairLoss, "kto", "orpo"]
_SMOOTHED = ("robust", "exo_pair")


class DpoRecipe(PreferenceRecipe):
    """Direct preference optimisation."""

    kind: Literal["dpo"]
    """Direct preference optimisation (Rafailov et al. 2023, https://arxiv.org/abs/2305.18290)."""
    loss: Loss = "sigmoid"
    """The loss of a pair. `sigmoid`: DPO's own. `hinge`: SLiC (https://arxiv.org/abs/2305.10425). `ipo`:
    https://arxiv.org/abs/2310.12036, with means over tokens. `robust`: https://arxiv.org/abs/2403.00409. `exo_pair`:
    https://arxiv.org/abs/2402.00856. `nca_pair`: https://arxiv.org/abs/2402.05369. `bco_pair`:
    https://arxiv.org/abs/2404.04656, without its running mean. `sppo_hard`: https://arxiv.org/abs/2405.00675.
    `apo_zero`, `apo_down`: https://arxiv.org/abs/2408.06266. `discopop`: https://arxiv.org/abs/2406.08414.
    `sigmoid_norm`: `sigmoid` with means over tokens (as SimPO, https://arxiv.org/abs/2405.14734, but with a
    reference). `kto`: https://arxiv.org/abs/2402.01306, of each answer by itself. `orpo`: https://arxiv.org/abs/2403.07691,
    which also fine-tunes on the chosen answers, and has no reference."""
    beta: Scale = 0.1
    """How strongly the model is held near the reference: the factor of the log-ratios; for `ipo` its tau, for `orpo`
    its lambda, the weight of the preference."""
    label_smoothing: Annotated[float, Field(ge=0, lt=0.5)] = 0.0
    """For `robust` and `exo_pair`: the assumed fraction of pairs whose answers are swapped."""
    desirable_weight: Scale = 1.0
    """For `kto`: weight of the loss of desirable (chosen) answers; its paper recommends that the weighted numbers of
    desirable and undesirable answers are as 1 to 1, up to 4 to 3."""
    undesirable_weight: Scale = 1.0
    """For `kto`: weight of the loss of undesirable (rejected) answers."""
    reference: Reference = Reference()
    """What the model is compared with."""
    evaluation: PairEvaluation = PairEvaluation()
    """How held-out pairs (`data.validation`) are evaluated; also before the first step and after the last."""

    @property
    @override
    def evaluation_interval(self) -> Length:
        return self.evaluation.interval

    @property
    @override
    def has_frozen_copy(self) -> bool:
        return self.loads_frozen_copy and not self.reference.precompute

    @property
    @override
    def loads_frozen_copy(self) -> bool:
        """Whether the reference is a model of its own, and not the trained one before training."""
        is_model_itself = self.adapter is not None or self.reference.precompute
        return self.loss != "orpo" and not (self.reference.model is None and is_model_itself)

    @property
    @override
    def further_passes(self) -> int:
        """One of the reference; `kto` reads answers to other questions, too, with the model and the reference."""
        if self.loss == "orpo" or self.reference.precompute:
            return 0
        return 3 if self.loss == "kto" else 1

    @override
    def inputs(self) -> Iterator[Input]:
        yield from super().inputs()
        if self.reference.model:
            yield Input("reference.model", "model", self.reference.model, "causal")

    @override
    def _conflicts(self) -> Iterator[str]:
        yield from super()._conflicts()
        yield from self._loss_conflicts()
        yield from self._kto_conflicts()
        yield from self._head_conflicts()
        yield from self._reference_conflicts()
        for place, source in enumerate(self.data.sources):
            if source.margin:
                yield f"data.sources.{place}.margin: `dpo` has no use for it; leave it out, or train a `reward`"

    def _loss_conflicts(self) -> Iterator[str]:
        if self.loss == "exo_pair" and not self.label_smoothing:
            yield "label_smoothing: `exo_pair` needs more than 0; its paper recommends 0.001"
        if self.loss not in _SMOOTHED and self.label_smoothing:
            names = " and ".join(f"`{name}`" for name in _SMOOTHED)
            yield f"label_smoothing: belongs to {names}, not to `{self.loss}`; leave it out"

    def _kto_conflicts(self) -> Iterator[str]:
        if self.loss == "kto":
            if self.batch.sequences == 1:
                yield "batch.global_batch: `kto` compares with answers to other questions of it; write more than 1"
            if self.reference.precompute:
                yield (
                    "reference.precompute: `kto` also needs the reference of answers to other questions, which change "
                    "with every epoch; leave it out"
                )
            return
        if self.data.is_unpaired:
            yield f"loss: `{self.loss}` compares two answers, and those of `data.sources` have no partner; write `kto`"
        for key in ("desirable_weight", "undesirable_weight"):
            if getattr(self, key) != 1:
                yield f"{key}: belongs to `kto`, not to `{self.loss}`; leave it out"

    def _head_conflicts(self) -> Iterator[str]:
        """Refuse adapters that the fused head of TRL does not see."""
        if self.adapter and getattr(self.adapter, "embeddings", "frozen") != "frozen":
            yield (
                "adapter.embeddings: log-probabilities are computed from the frozen weights of the output embedding; "
                "leave it out"
            )
        if isinstance(self.adapter, AdaptionPrompt):
            yield (
                "adapter.method: `adaption_prompt` does not work here: TRL calls the model inside of peft's wrapper, "
                "so that the adapter is not applied; write `lora` or `prefix`"
            )

    def _reference_conflicts(self) -> Iterator[str]:
        if self.loss == "orpo":
            if self.reference != Reference():
                yield "reference: `orpo` compares with none; leave it out"
            return
        if self.adapter and self.reference.sync:
            yield "reference.sync: moves whole models, and an adapter is trained; leave one of the two out"
        if not (self.reference.model or self.reference.precompute):
            yield from self._switch_conflicts()

    def _switch_conflicts(self) -> Iterator[str]:
        """Say where switching the adapter off does not give the model before training."""
        fix = "name it in `reference.model`" if self.loss == "kto" else "write `reference.precompute: true`"
        why = f"so the model without its adapter is not the one before training; {fix}"
        if isinstance(self.adapter, Lora) and self.adapter.init in ("pissa", "olora"):
            yield f"adapter.init: `{self.adapter.init}` changes the frozen weights, {why}"
        if isinstance(self.adapter, Lora) and self.adapter.bias != "none":
            yield f"adapter.bias: biases of the model itself are trained, {why}"
        if isinstance(self.adapter, Orthogonal) and self.adapter.base_trains:
            yield f"adapter.base_trains: the one from `start_from` is trained further, {why}, or `base_trains: false`"
        for place, one in enumerate(self.model.adapters):
            if one.trainable:
                yield f"model.adapters.{place}.trainable: it is trained further, {why}"
