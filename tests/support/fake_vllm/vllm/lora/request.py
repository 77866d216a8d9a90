"""As vLLM's module of this name."""

from dataclasses import dataclass


@dataclass
class LoRARequest:
    """An adapter to apply."""

    lora_name: str
    lora_int_id: int
    lora_path: str
