"""What the machine is and can do by itself: versions, products of matrices, copies, flash attention, fp16. No jobs."""

import importlib.metadata
import json
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable
from typing import Any

from bench.gpu.trainings import computes_bf16, options_of_program

FLASH = (8, 0)
"""The least compute capability of GPUs that torch has a flash kernel for."""
ROUNDS = 9
ROUND = 0.03
"""Seconds of a round, about; less than a call of the work takes is one call."""
PACKAGES = ("torch", "transformers", "accelerate", "peft", "trl", "bitsandbytes", "deepspeed", "flash-attn", "triton")


def main() -> int:
    """Look, and answer."""
    parser = options_of_program(__doc__)
    options = parser.parse_args()
    import torch

    side = 512 if options.smallest else 8192
    found: dict[str, Any] = {
        "python": platform.python_version(),
        "packages": {name: _version(name) for name in PACKAGES},
        "cores": len(os.sched_getaffinity(0)),
        "gpus": [],
        "product": _product(torch, options.device, side),
        "copy_bytes_per_second": _copy(torch, options.device, 1 << (20 if options.smallest else 30)),
    }
    if options.device == "cuda":
        for number in range(torch.cuda.device_count()):
            properties = torch.cuda.get_device_properties(number)
            found["gpus"].append({"name": properties.name, "memory": properties.total_memory})
        found |= {
            "cuda": torch.version.cuda,
            "nccl": ".".join(map(str, torch.cuda.nccl.version())),
            "capability": torch.cuda.get_device_capability(0),
            "flash": flash_of(torch),
        }
    print(json.dumps(found))
    return 0


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def seconds_of(work: Callable[[], object], wait: Callable[[], None], warm_up: float = 0.5) -> float:
    """Return the median time of some work over rounds, once the device has worked for a while.

    A GPU that has had nothing to do takes some tenths of a second to reach its clock.

    Args:
        work: What is measured; a GPU may still be at it when this returns.
        wait: Waits for the device.
        warm_up: Seconds of work that do not count.
    """
    calls, began = 0, time.perf_counter()
    while (taken := time.perf_counter() - began) < warm_up or not calls:
        work()
        wait()
        calls += 1
    in_round = max(1, round(ROUND * calls / taken))
    rounds = []
    for _ in range(ROUNDS):
        began = time.perf_counter()
        for _ in range(in_round):
            work()
        wait()
        rounds.append((time.perf_counter() - began) / in_round)
    return statistics.median(rounds)


def _seconds(torch: Any, device: str, work: Callable[[], object]) -> float:
    return seconds_of(work, torch.cuda.synchronize if device == "cuda" else lambda: None)


def _product(torch: Any, device: str, side: int) -> dict[str, Any]:
    """Return FLOP/s of a product of two square matrices of random numbers in bf16; in fp16 where that is emulated."""
    dtype = torch.bfloat16 if device == "cpu" or computes_bf16() else torch.float16
    one, two = (torch.randn(side, side, device=device, dtype=dtype) for _ in range(2))
    name = "bf16" if dtype == torch.bfloat16 else "fp16"
    return {"side": side, "dtype": name, "flops": 2 * side**3 / _seconds(torch, device, lambda: one @ two)}


def _copy(torch: Any, device: str, size: int) -> float:
    """Return bytes a second that are read and written by a copy within the device's memory."""
    source = torch.empty(size, device=device, dtype=torch.uint8)
    target = torch.empty_like(source)
    return 2 * size / _seconds(torch, device, lambda: target.copy_(source))


def flash_of(torch: Any) -> dict[str, float] | None:
    """Return seconds of torch's attention, causal and in bf16, by its flash kernel and by plain mathematics.

    None on a GPU that torch has no such kernel for.
    """
    if torch.cuda.get_device_capability(0) < FLASH:
        return None
    from torch.nn.attention import SDPBackend, sdpa_kernel

    queries = torch.randn(4, 32, 2048, 64, device="cuda", dtype=torch.bfloat16)
    found = {}
    for name, backend in (("flash", SDPBackend.FLASH_ATTENTION), ("mathematics", SDPBackend.MATH)):
        with sdpa_kernel(backend):
            attend = torch.nn.functional.scaled_dot_product_attention
            found[name] = _seconds(
                torch, "cuda", lambda attend=attend: attend(queries, queries, queries, is_causal=True)
            )
    return found


if __name__ == "__main__":
    sys.exit(main())
