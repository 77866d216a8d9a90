"""What torch's flight recorder knows of collectives, kept as JSON when a rank hangs."""

import json
from pathlib import Path
from typing import Any

from torch._C import _distributed_c10d as recorder

from launcher.run.collectives import newest_entries

_SOURCES = ("_dump_nccl_trace_json", "_dump_fr_trace_json")
"""NCCL has a recorder of its own; a torch without NCCL lacks its function."""


def keep_collectives(path: Path) -> None:
    """Write the newest collectives of this rank.

    Raises:
        OSError: the disk is full or gone.
    """
    entries: list[dict[str, Any]] = []
    for name in _SOURCES:
        if (dump := getattr(recorder, name, None)) is not None:
            entries += json.loads(dump()).get("entries", [])
    entries.sort(key=lambda entry: int(entry.get("time_created_ns", 0)))
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps({"entries": newest_entries(entries)}) + "\n", encoding="utf-8")
