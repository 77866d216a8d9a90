"""From a model to graphs for onnxruntime, by transformers' own exporter.

A language model becomes two graphs: `prefill` reads a prompt, `decode` goes on from a cache, one or several tokens at a
time. Both are traced from a batch with padding and therefore take an attention mask and positions; the number of texts,
of tokens, and of tokens in the cache can be any.
"""

import io
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from typing import Any

import onnx
import torch
from torch import Tensor
from transformers import GenerationConfig, PreTrainedModel
from transformers.exporters.configs import OnnxConfig
from transformers.exporters.exporter_onnx import OnnxExporter
from transformers.exporters.quantizers.quantizer_onnxruntime import OnnxRuntimeDynamicConfig, OnnxRuntimeQuantizer

from jobs.export.inputs import Task

GRAPHS: dict[Task, tuple[str, ...]] = {"language model": ("prefill", "decode"), "classifier": ("model",)}
"""Names of the graphs; each is a file `NAME.onnx` and one `NAME.onnx.data` with its weights."""
_NOISY = ("transformers.exporters", "torch.onnx", "onnxscript", "onnx_ir", "transformers.generation", "root")


def padded_sample(rows: int) -> dict[str, Tensor]:
    """Return the batch that a model is traced with: two texts, the first one padded.

    Args:
        rows: Size of the vocabulary.
    """
    ids = torch.arange(24).reshape(2, 12) % rows
    mask = torch.ones_like(ids)
    mask[0, :4] = 0
    return {"input_ids": ids, "attention_mask": mask}


def trace(model: PreTrainedModel, task: Task, folder: Path, is_quantised: bool) -> None:
    """Write a model's graphs.

    Args:
        model: In fp32, on the CPU.
        task: What it computes.
        folder: Gets the graphs, config.json, and export.json with what transformers' `ExportedModel` needs.
        is_quantised: Keep weights in 8 bits and compute matrix products in them.
    """
    quantizer = OnnxRuntimeQuantizer(OnnxRuntimeDynamicConfig(per_channel=True)) if is_quantised else None
    config = OnnxConfig(dynamic=True, quantizer=quantizer)
    sample: dict[str, Any] = {**padded_sample(model.config.get_text_config().vocab_size)}
    with _quiet():
        exporter = OnnxExporter()  # type: ignore[no-untyped-call]
        if task == "classifier":
            exported = exporter.export(model, _right_padded(sample), config)
        else:
            plain = GenerationConfig(pad_token_id=0)  # type: ignore[no-untyped-call] # published ones are not always consistent
            exported = exporter.export_for_generation(
                model, sample, config, generation_config=plain, multi_token_decode=True
            )
        exported.save_pretrained(folder)
    if task == "language model":
        _share_weights(folder)


def _right_padded(sample: dict[str, Any]) -> dict[str, Any]:
    return {name: tensor.flip(-1) for name, tensor in sample.items()}


def _share_weights(folder: Path) -> None:
    """Let both graphs read one file of weights, if theirs are equal to the byte.

    transformers' `ExportedModel` looks for a second file without reading it, so that an empty one is left. A hard link
    would not do: onnx 1.23 refuses to read through one.
    """
    first, second = (folder / f"{name}.onnx.data" for name in GRAPHS["language model"])
    if not _are_equal(first, second):
        return
    graph = folder / second.name.removesuffix(".data")
    model = onnx.load(str(graph), load_external_data=False)
    for tensor in _stored_outside(model.graph):
        for entry in tensor.external_data:
            if entry.key == "location":
                entry.value = first.name
    onnx.save(model, str(graph))
    second.write_bytes(b"")


def _stored_outside(graph: Any) -> Iterator[Any]:
    attributes = [one.t for node in graph.node for one in node.attribute if one.type == onnx.AttributeProto.TENSOR]
    for tensor in (*graph.initializer, *attributes):
        if tensor.data_location == onnx.TensorProto.EXTERNAL:
            yield tensor


def _are_equal(one: Path, other: Path) -> bool:
    if one.stat().st_size != other.stat().st_size:
        return False
    with one.open("rb") as left, other.open("rb") as right:
        while block := left.read(1 << 24):
            if block != right.read(1 << 24):
                return False
    return True


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep out of the log what the libraries say of their progress, and of versions that they were not tried with."""
    loggers = [logging.getLogger(name if name != "root" else None) for name in _NOISY]
    levels = [one.level for one in loggers]
    for one in loggers:
        one.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        for one, level in zip(loggers, levels, strict=True):
            one.setLevel(level)
