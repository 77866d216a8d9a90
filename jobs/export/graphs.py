"""Graphs in plain onnxruntime, as anybody runs them: numpy arrays in, numpy arrays out."""

from pathlib import Path
from typing import Any

import onnxruntime
import torch
from torch import Tensor

from jobs.export.inputs import Task
from jobs.export.probe import PaddedBatch
from jobs.export.trace import GRAPHS

_CACHE = "past_key_values"
"""In the names of inputs and outputs that are the cache; what stands before it (`input.`, `output.`) differs."""
_ERRORS_ONLY = 3


class GraphsProbed:
    """The graphs of a folder, as `jobs.export.probe.ProbedModel`.

    Args:
        folder: Holds the graphs.
        task: What they compute.
        threads: That compute them.
    """

    def __init__(self, folder: Path, task: Task, threads: int) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
        options.log_severity_level = _ERRORS_ONLY
        self._sessions = {
            name: onnxruntime.InferenceSession(
                str(folder / f"{name}.onnx"), options, providers=["CPUExecutionProvider"]
            )
            for name in GRAPHS[task]
        }
        self._first = GRAPHS[task][0]

    def __call__(self, batch: PaddedBatch, last: int, cache: Any) -> tuple[Tensor, Any]:
        """Compute logits; see `ProbedModel`."""
        session = self._sessions[self._first if cache is None else "decode"]
        whole = {"attention_mask": batch.mask}
        cut = {"input_ids": batch.ids, "position_ids": batch.positions}
        given = {name: tensor.numpy() for name, tensor in whole.items()}
        given |= {name: tensor[:, -last:].numpy() for name, tensor in cut.items()}
        given |= cache or {}
        # A graph that was traced without padding has no input for a mask: that shows in what it computes.
        feeds = {one.name: given[_key(one.name)] for one in session.get_inputs()}
        outputs = zip(session.get_outputs(), session.run(None, feeds), strict=True)
        said = {_key(one.name): array for one, array in outputs}
        return torch.from_numpy(said.pop("logits")), said


def _key(name: str) -> str:
    """Return a tensor's name as all graphs have it."""
    _, part, rest = name.partition(_CACHE)
    return part + rest if part else name
