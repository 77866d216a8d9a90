"""Silences peft warnings that are not about the user's model."""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def silence_peft_warnings() -> Iterator[None]:
    """Keep peft from warning while it builds a model.

    peft 0.21 asks the model for `is_gradient_checkpointing`, which transformers 5 has renamed. And it says that it sees
    by itself how models of the GPT-2 kind store their weights.
    """
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "`is_gradient_checkpointing` is deprecated", FutureWarning)
        warnings.filterwarnings("ignore", "fan_in_fan_out is set to", UserWarning)
        yield
