"""All-reduce among the GPUs of this machine by NCCL, or among two processes on CPUs by gloo: bus bandwidth by size."""

import json
import os
import subprocess
import sys
import time
from datetime import timedelta
from typing import Any

from bench.gpu.our_job import free_port
from bench.gpu.trainings import options_of_program

SIZES = (1 << 20, 1 << 24, 1 << 28, 1 << 30)
SMALLEST = (1 << 16, 1 << 20)


def main() -> int:
    """Start the ranks, each of which is this program again; the first one answers."""
    options = options_of_program(__doc__).parse_args()
    if "RANK" in os.environ:
        return _rank(options)
    import torch

    count = torch.cuda.device_count() if options.device == "cuda" else 2
    shared = {"WORLD_SIZE": str(count), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
    command = [sys.executable, "-m", "bench.gpu.collectives", *sys.argv[1:]]
    ranks = [subprocess.Popen(command, env=os.environ | shared | {"RANK": str(rank)}) for rank in range(count)]
    return max(abs(rank.wait()) for rank in ranks)


def _rank(options: Any) -> int:
    import torch
    import torch.distributed as dist

    rank, backend = int(os.environ["RANK"]), "nccl" if options.device == "cuda" else "gloo"
    if options.device == "cuda":
        torch.cuda.set_device(rank)
    dist.init_process_group(backend, timeout=timedelta(seconds=60))
    rows = [_bandwidth(torch, dist, options.device, size) for size in (SMALLEST if options.smallest else SIZES)]
    if rank == 0:
        print(json.dumps({"backend": backend, "ranks": dist.get_world_size(), "rows": rows}))
    dist.destroy_process_group()
    return 0


def _bandwidth(torch: Any, dist: Any, device: str, size: int) -> dict[str, float]:
    """Return bytes a second of the bus: what a ring sends, whatever the number of ranks."""
    tensor = torch.ones(size // 4, device=device)
    ranks, times = dist.get_world_size(), 10

    def reduce(count: int) -> float:
        dist.barrier()
        began = time.perf_counter()
        for _ in range(count):
            dist.all_reduce(tensor)
        tensor[0].item()  # waits for the GPU
        return (time.perf_counter() - began) / count

    reduce(2)
    seconds = reduce(times)
    return {"bytes": size, "seconds": seconds, "bus_bytes_per_second": 2 * (ranks - 1) / ranks * size / seconds}


if __name__ == "__main__":
    sys.exit(main())
