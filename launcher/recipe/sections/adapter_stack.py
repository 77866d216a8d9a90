"""Which new adapters can be trained on top of adapters of earlier runs."""

from collections.abc import Iterator

from launcher.recipe.sections.adapter import Adapter, Lora
from launcher.recipe.sections.common import Model

_MERGE = "merge them into the model first (kind `merge`)"


def stack_conflicts(model: Model, adapter: Adapter | None) -> Iterator[str]:
    """Name what keeps adapters from being active together, or from giving the same model when merged one by one.

    Args:
        model: The recipe's section.
        adapter: The new one.
    """
    if not model.adapters:
        return
    if adapter is None:
        yield f"model.adapters: nothing is trained on top of them; add an `adapter`, or {_MERGE}"
    elif not isinstance(adapter, Lora):
        yield (
            f"adapter.method: `{adapter.method}` is not a sum with the weights, so it cannot be combined with "
            f"`model.adapters`; write `lora`, or {_MERGE}"
        )
    else:
        yield from _lora_conflicts(adapter)


def _lora_conflicts(adapter: Lora) -> Iterator[str]:
    if adapter.dora:
        yield f"adapter.dora: scales the weights as if there were no `model.adapters`; leave it out, or {_MERGE}"
    if adapter.init in ("pissa", "olora"):
        yield (
            f"adapter.init: `{adapter.init}` decomposes the weights as if there were no `model.adapters`; write "
            f"`default`, or {_MERGE}"
        )
    if adapter.embeddings != "frozen":
        yield f"adapter.embeddings: trained embedding rows replace those of the model; write `frozen`, or {_MERGE}"
    if adapter.bias != "none":
        yield f"adapter.bias: peft trains biases with one adapter only; write `none`, or {_MERGE}"
