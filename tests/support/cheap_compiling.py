"""Programs for ranks that compile without inductor, or train with flex attention on CPUs."""

TRACED = """
import sys
import torch
torch.compiler.set_stance("default", force_backend="eager")
import jobs.__main__ as task
"""
"""Layers are traced as they are for inductor, and torch carries out what was traced: seconds instead of minutes."""

UNFUSED_FLEX = """
import sys
import torch
from torch.nn.attention import flex_attention
flex_attention._validate_device = lambda *given: None
from jobs.train import run
run.refuse_impossible = lambda *given: None
torch.compiler.set_stance("force_eager")
import jobs.__main__ as task
"""
"""torch 2.13 has no backward pass of flex attention for CPUs. This one is torch's own without a kernel, from the same
masks: it makes all scores, and computes on any device once torch's question after the device is gone."""

RUN = "sys.exit(task.main())"
