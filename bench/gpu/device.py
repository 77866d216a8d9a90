"""What the machine is and can do by itself: versions, products of matrices, copies, flash attention, fp16. No jobs."""

import importlib.metadata
import json
import os
import platform
import sys
import time
from collections.abc import Callable
from typing import Any

from bench.gpu.trainings import options_of_program

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
            "flash": _flash(torch),
        }
    print(json.dumps(found))
    return 0


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _seconds(torch: Any, device: str, work: Callable[[], object], times: int = 10) -> float:
    """Return the mean time of some work after two rounds that do not count."""

    def wait() -> None:
        if device == "cuda":
            torch.cuda.synchronize()

    for _ in range(2):
        work()
    wait()
    began = time.perf_counter()
    for _ in range(times):
        work()
    wait()
    return (time.perf_counter() - began) / times


def _product(torch: Any, device: str, side: int) -> dict[str, float]:
    """Return FLOP/s of a product of two square matrices of random numbers in bf16."""
    one, two = (torch.randn(side, side, device=device, dtype=torch.bfloat16) for _ in range(2))
    return {"side": side, "flops": 2 * side**3 / _seconds(torch, device, lambda: one @ two)}


def _copy(torch: Any, device: str, size: int) -> float:
    """Return bytes a second that are read and written by a copy within the device's memory."""
    source = torch.empty(size, device=device, dtype=torch.uint8)
    target = torch.empty_like(source)
    return 2 * size / _seconds(torch, device, lambda: target.copy_(source))


def _flash(torch: Any) -> dict[str, float]:
    """Return seconds of torch's attention, causal and in bf16, by its flash kernel and by plain mathematics."""
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
