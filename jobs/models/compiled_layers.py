"""Layers whose training pass is compiled by torch.compile, one by one ("regional compilation").

All layers of a model run the same code on the same shapes, so it is compiled once instead of once a layer. Hooks of
FSDP2 stay outside of it: what is compiled is `forward`, as the class of a layer has it when it is called (FSDP2 gives
layers another class). Evaluations and generation, whose shapes differ, run as they are written.
"""

import os
import shutil
from dataclasses import dataclass, field
from functools import cache
from importlib.util import find_spec
from types import MethodType
from typing import Any

import torch
from torch import nn
from torch._dynamo import config
from torch._dynamo.utils import counters
from transformers.modeling_layers import GradientCheckpointingLayer

from launcher.errors import LauncherError


def compile_layers(model: nn.Module) -> int:
    """Have the training passes of a model's layers compiled when they first run.

    Args:
        model: Adapted, but not yet sharded; changed.

    Returns:
        The number of layers.

    Raises:
        LauncherError: transformers does not say what the model's layers are.
    """
    layers = layers_of(model)
    if not layers:
        raise LauncherError(
            f"model.compile: transformers does not say what the layers of a {type(model).__name__} are; write `false`"
        )
    # Reduces the gradients of a part of a layer while the rest is computed, and refuses recomputed activations. By
    # layers DDP does that anyway.
    config.optimize_ddp = False
    for layer in layers:
        layer.forward = MethodType(_forward, layer)
    return len(layers)


def layers_of(model: nn.Module) -> list[Any]:
    """Find the layers of a model, in their order; none where transformers does not say what they are."""
    return [module for module in model.modules() if isinstance(module, GradientCheckpointingLayer)]


def _forward(self: nn.Module, *given: Any, **named: Any) -> Any:
    plain = type(self).forward
    is_training = self.training and torch.is_grad_enabled()
    return (_compiled(plain) if is_training else plain)(self, *given, **named)


@cache
def _compiled(function: Any) -> Any:
    # Shapes are constants: code for any shape would depend on which one came first, and so on when a run was resumed.
    return torch.compile(function, dynamic=False)


@dataclass(frozen=True)
class CompiledCode:
    """What this process has compiled so far."""

    graphs: int
    breaks: dict[str, int] = field(default_factory=dict)
    """How often compiled code breaks off, by reason: there Python goes on, which costs time."""

    @classmethod
    def so_far(cls) -> "CompiledCode":
        """Read torch's own counters."""
        return cls(counters["stats"]["unique_graphs"], dict(counters["graph_break"]))

    def __str__(self) -> str:
        breaks = sum(self.breaks.values())
        reasons = "".join(f"\n  {count} x {_first_line(reason)}" for reason, count in self.breaks.items())
        return f"compiled: {_counted(self.graphs, 'graph')}, {_counted(breaks, 'graph break')}{reasons}"


def _counted(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"


def _first_line(text: str) -> str:
    return text.strip().partition("\n")[0]


def missing_compiler(device: torch.device) -> str | None:
    """Say what this machine lacks to compile for a device; None if nothing is missing.

    inductor compiles C++ for CPUs. For GPUs Triton does the compiling, and a C compiler links its kernels to Python.
    """
    on_cpu = device.type == "cpu"
    if not on_cpu and find_spec("triton") is None:
        return "the package `triton` is missing on this node; install it, or leave `compile` out"
    variable, names = ("CXX", ("g++", "clang++")) if on_cpu else ("CC", ("gcc", "clang"))
    candidates = [os.environ[variable]] if variable in os.environ else names
    if any(shutil.which(name) for name in candidates):
        return None
    listed = " or ".join(f"`{name}`" for name in candidates)
    return f"there is no {listed} on this node; load a module that has one in the cluster profile, or leave it out"
