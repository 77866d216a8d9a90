"""Folders of models and adapters whose files hold anything: a line says what is wrong, before anything is loaded."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import strategies as st
from safetensors.numpy import save

from launcher.artifacts.adapter_folder import read_adapter
from launcher.artifacts.model_folder import require_files, require_tokenizer_files
from launcher.errors import LauncherError
from tests.support.command_line import launcher_with_any_code
from tests.support.fuzz import as_json, damaged, damaged_bytes, damaged_json, files_beside, fuzzed
from tests.support.model_configs import LLAMA_7B

SHARDS = ("model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors")
WEIGHTS = save({"model.layers.0.self_attn.q_proj.weight": np.zeros((2, 2), np.float32)})
NO_NAMES = "names no files of this folder"
INDEX = {"metadata": {"total_size": 16}, "weight_map": {"a.weight": SHARDS[0], "b.weight": SHARDS[1]}}
ADAPTER = {
    "peft_type": "LORA",
    "base_model_name_or_path": "model",
    "r": 2,
    "lora_alpha": 4,
    "target_modules": ["q_proj"],
}
JSON: dict[str, Any] = {
    "config.json": LLAMA_7B, "model.safetensors.index.json": INDEX, "adapter/adapter_config.json": ADAPTER,
    "tokenizer.json": {"model": {"type": "BPE", "vocab": {"a": 0}, "merges": []}, "added_tokens": []},
    "tokenizer_config.json": {"eos_token": "</s>"}, "generation_config.json": {"eos_token_id": 2},
    "manifest.json": {"data_use": "open"}, "expansion.json": {"base": "model", "added": 1},
}  # fmt: skip
RECIPE = """kind: sft
name: tune
model: {path: model}
data: {sources: [{format: sharegpt, files: chats.jsonl}]}
adapter: {type: lora, rank: 2, alpha: 4, targets: [q_proj]}
batch: {global_batch: 8 sequences, sequence_length: 64}
optim: {lr: 1e-4}
schedule: {length: 10 steps}
resources: {time: 1h}
"""


def heads() -> st.SearchStrategy[bytes]:
    """Safetensors files: with another header of the right or of any length, cut off, or of other bytes."""
    size = int.from_bytes(WEIGHTS[:8], "little")
    header, rest = json.loads(WEIGHTS[8 : 8 + size]), WEIGHTS[8 + size :]
    told = damaged(header).map(as_json)
    lengths = st.sampled_from([0, 1, 2**31, 2**63, 2**64 - 1]) | st.integers(0, 2 * size)
    return (
        told.map(lambda found: len(found).to_bytes(8, "little") + found + rest)
        | st.tuples(lengths, told).map(lambda one: one[0].to_bytes(8, "little") + one[1] + rest)
        | damaged_bytes(WEIGHTS)
    )


def damages() -> st.SearchStrategy[tuple[str, bytes | None]]:
    """The name of a file and what it holds; None: it is a folder."""
    weights = ("model.safetensors", "adapter/adapter_model.safetensors", *SHARDS)
    kinds = [st.tuples(st.just(name), damaged_json(content)) for name, content in JSON.items()]
    kinds += [st.tuples(st.just(name), heads()) for name in weights]
    return st.one_of(*kinds, st.tuples(st.sampled_from([*JSON, *weights]), st.none()))


def write_model(folder: Path, is_sharded: bool, changes: list[tuple[str, bytes | None]]) -> None:
    (folder / "adapter").mkdir(parents=True)
    for name, content in JSON.items():
        (folder / name).write_bytes(as_json(content))
    for name in SHARDS if is_sharded else ("model.safetensors",):
        (folder / name).write_bytes(WEIGHTS)
    (folder / "adapter" / "adapter_model.safetensors").write_bytes(WEIGHTS)
    for name, content in changes:
        path = folder / name
        path.unlink(missing_ok=True)
        path.mkdir() if content is None else path.write_bytes(content)


CASES = st.tuples(st.booleans(), st.lists(damages(), min_size=1, max_size=2, unique_by=lambda one: one[0]))


@fuzzed(CASES, gate=60)
def test_a_damaged_model_is_looked_at_or_explained(folder: Path, damage: Any) -> None:
    model = folder / "model"
    shutil.rmtree(model, ignore_errors=True)
    write_model(model, *damage)

    for look in (lambda: require_files(model, weights=True), lambda: require_tokenizer_files(model),
                 lambda: read_adapter(model / "adapter")):  # fmt: skip
        try:
            look()
        except LauncherError as error:
            assert str(error)
        except OSError as error:  # a folder in the place of a file
            assert error.errno is not None


@fuzzed(CASES, gate=8)
def test_a_recipe_with_a_damaged_model_is_checked(folder: Path, damage: Any) -> None:
    shutil.rmtree(folder / "models", ignore_errors=True)
    write_model(folder / "models" / "model", *damage)
    (folder / "recipe.yaml").write_text(RECIPE)
    (folder / "chats.jsonl").write_text('{"conversations": []}\n')
    roots = ", ".join(f"{name}: {folder / name}" for name in ("runs", "corpora", "models"))
    (folder / "cluster.yaml").write_text(f"name: here\nroots: {{{roots}, data: {folder}}}\n")
    before = set(files_beside(folder, folder / "none"))

    for command in ("validate", "plan"):
        words = (command, str(folder / "recipe.yaml"), "--json", "--cluster", str(folder / "cluster.yaml"))
        assert launcher_with_any_code(*words) in (0, 1, 2)

    assert set(files_beside(folder, folder / "none")) == before


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("config.json", b"[" * 100_000, "is not JSON"),
        ("tokenizer.json", b'{"a":' * 100_000, "is not JSON"),
        ("model.safetensors", (10**5).to_bytes(8, "little") + b"[" * 10**5, "is no complete safetensors file"),
        ("model.safetensors.index.json", b'{"weight_map": ["a"]}', NO_NAMES),
        ("model.safetensors.index.json", b'{"weight_map": {"a": 3}}', NO_NAMES),
        ("model.safetensors.index.json", b'{"weight_map": {"a": "../model.safetensors"}}', NO_NAMES),
        ("model.safetensors.index.json", b'{"weight_map": {"a": "/dev/zero"}}', NO_NAMES),
        ("model.safetensors.index.json", b'{"weight_map": {"a": "a\\u0000"}}', NO_NAMES),
    ],
)  # fmt: skip
def test_what_is_wrong_is_told_with_the_file(tmp_path: Path, name: str, content: bytes, said: str) -> None:
    write_model(tmp_path / "model", "index" in name, [(name, content)])

    with pytest.raises(LauncherError, match=rf"{name}: .*{said}"):
        require_files(tmp_path / "model", weights=True)
        require_tokenizer_files(tmp_path / "model")
