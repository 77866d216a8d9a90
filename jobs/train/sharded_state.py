"""This rank's shards of what FSDP2 trains, as accelerate saves and loads them."""

from collections.abc import Iterator
from typing import Any

from accelerate import Accelerator
from accelerate.utils import fsdp_utils
from accelerate.utils.constants import FSDP_MODEL_NAME, OPTIMIZER_NAME
from torch import nn
from torch.distributed.checkpoint.state_dict import get_optimizer_state_dict
from torch.optim import Optimizer


def sharded_state(
    model: nn.Module, optimizer: Optimizer, accelerator: Accelerator
) -> Iterator[tuple[str, dict[str, Any]]]:
    """Return what `save_fsdp_model` and `save_fsdp_optimizer` of accelerate 1.15 write at once. A collective.

    Args:
        model: The trained model; of an adapted one, only what is trained is returned.
        optimizer: Its optimizer.
        accelerator: Prepared both.

    Yields:
        The folder of a checkpoint from which accelerate loads a part, and the state that belongs into it.
    """
    options = fsdp_utils._prepare_sd_options(accelerator.state.fsdp_plugin)
    yield f"{FSDP_MODEL_NAME}_0", {"model": fsdp_utils._get_model_state_dict(model, True, options)}
    yield f"{OPTIMIZER_NAME}_0", {"optimizer": get_optimizer_state_dict(model, optimizer, options=options)}
