"""What goes on top of the adapters of earlier runs, and what does not."""

from collections.abc import Iterator

from launcher.recipe.adapter import Adapter, Lora
from launcher.recipe.sections import Model

_MERGE = "merge them into the model first (kind `merge`)"


def stack_conflicts(model: Model, adapter: Adapter | None) -> Iterator[str]:
    """Name what keeps adapters from being active together, or from being merged one after the other with that outcome.

    Args:
        model: The recipe's section, with adapters of earlier runs or none.
        adapter: The new one.
    """
    if not model.adapters:
        return
    if adapter is None:
        yield f"model.adapters: nothing is trained on top of them; add an `adapter`, or {_MERGE}"
    elif not isinstance(adapter, Lora):
        yield (
            f"adapter.method: `{adapter.method}` is not added to a weight as those of `model.adapters` are, so the sum "
            f"is not defined; write `lora`, or {_MERGE}"
        )
    else:
        yield from _lora_conflicts(adapter)


def _lora_conflicts(adapter: Lora) -> Iterator[str]:
    if adapter.dora:
        yield f"adapter.dora: would scale the model's weights without `model.adapters`; leave it out, or {_MERGE}"
    if adapter.init in ("pissa", "olora"):
        yield (
            f"adapter.init: `{adapter.init}` starts from the model's weights without `model.adapters`; write "
            f"`default`, or {_MERGE}"
        )
    if adapter.embeddings != "frozen":
        yield f"adapter.embeddings: rows of embeddings are replaced, not added to; write `frozen`, or {_MERGE}"
    if adapter.bias != "none":
        yield f"adapter.bias: peft trains biases with one adapter only; write `none`, or {_MERGE}"
