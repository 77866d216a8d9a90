"""Names in a recipe that nothing has are said in `validate`, where what has them is on this machine."""

import gzip
import io
import json
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from transformers import CONFIG_MAPPING, AutoModelForCausalLM, GPT2Config, GPT2LMHeadModel, MixtralConfig
from transformers.conversion_mapping import get_checkpoint_conversion_mapping

from launcher.errors import Fault
from launcher.load import load_recipes
from launcher.plan import check_all
from launcher.plan.module_names import NAMED_AS_SAVED, find_modules, read_head
from tests.support.labelled_runs import classify_recipe
from tests.support.recipe_files import PROFILE, profile, summarise, write
from tests.support.training_runs import ASSETS, cpt_recipe

STORIES = ASSETS / "stories260k"


def find_faults(folder: Path, recipe: dict[str, Any]) -> list[Fault]:
    """The faults of a recipe, at a site whose roots are in a folder, but for its corpora."""
    roots = f"{{runs: {folder}, data: {folder}, corpora: {folder}, models: {folder}}}"
    cluster = profile(folder, PROFILE.replace("{runs: /r, data: /d, corpora: /c, models: /m}", roots))
    found = check_all(load_recipes(write(folder, json.dumps(recipe, indent=1))), cluster)
    return [fault for fault in found if not fault.key.startswith("data.corpora")]


def write_tables(folder: Path, name: str, header: str = "id,text,label", rows: int = 3) -> dict[str, Any]:
    """Write the tables of a `classify` recipe, and return the recipe."""
    shutil.copytree(STORIES, folder / "model", dirs_exist_ok=True)
    for split in ("train", "validation"):
        content = f"{header}\n".encode() + b'1,"some text",0\n' * rows
        path = folder / f"{split}{name}"
        path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)
    data = {"train": f"train{name}", "validation": f"./validation{name}", "test": None}
    return classify_recipe(model={"path": "model"}, data=data)


@pytest.mark.parametrize("name", [".csv", ".csv.gz"])
def test_columns_that_tables_lack_are_refused_with_those_there_are(tmp_path: Path, name: str) -> None:
    recipe = write_tables(tmp_path, name, '\ufeffid,"Text",labels')

    found = find_faults(tmp_path, recipe)

    assert [summarise([fault])[0].split()[1:] for fault in found] == [["unknown-name", "data.label_column"]]
    assert "names no column `label`; there are `labels`, " in found[0].message


def test_the_first_row_of_credentialed_data_is_not_listed(tmp_path: Path) -> None:
    recipe = write_tables(tmp_path, ".csv", "7,Mrs Smith has a cold,0") | {"data_use": "credentialed"}

    found = find_faults(tmp_path, recipe)

    assert {fault.key for fault in found} == {"data.id_column", "data.text_column", "data.label_column"}
    assert not any("Smith" in str(fault) for fault in found)


@pytest.mark.parametrize("content", [b"", b"id", b'id,"text,label\n1,a,0\n', b"\xff\xfe,text\n", b"x" * 2**17, b"\n"])
def test_a_first_row_that_cannot_be_read_is_left_to_the_node(tmp_path: Path, content: bytes) -> None:
    recipe = write_tables(tmp_path, ".csv")
    (tmp_path / "train.csv").write_bytes(content)

    assert find_faults(tmp_path, recipe) == []


def test_only_heads_of_files_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = write_tables(tmp_path, ".csv", rows=100_000)
    lora = recipe | {"adapter": {"method": "lora", "targets": ["vproj"]}}
    sizes = {path: path.stat().st_size for path in (tmp_path / "train.csv", tmp_path / "model" / "model.safetensors")}
    read = Counter[str]()

    class CountingFile(io.FileIO):
        def readinto(self, buffer: Any) -> int:
            read[str(self.name)] += (count := super().readinto(buffer))
            return count

        def read(self, size: int | None = -1) -> bytes:
            read[str(self.name)] += len(content := super().read(size))
            return content

    def opened(path: Path, mode: str = "r", buffering: int = -1, **options: Any) -> Any:
        if "b" not in mode:
            return open(path, mode, buffering, **options)
        raw = CountingFile(path)
        return raw if buffering == 0 else io.BufferedReader(raw, max(buffering, 1) if buffering > 0 else 2**13)

    monkeypatch.setattr(Path, "open", opened)
    found = find_faults(tmp_path, lora)

    assert [fault.key for fault in found] == ["adapter.targets"]
    assert all(0 < read[str(path)] <= 2**16 < size for path, size in sizes.items()), read


def adapted(**adapter: Any) -> dict[str, Any]:
    return cpt_recipe(model={"path": "model"}, adapter=adapter)


@pytest.mark.parametrize(
    ("key", "adapter"),
    [
        ("adapter.targets", {"method": "lora", "targets": ["q_proj", "vproj"]}),
        ("adapter.targets", {"method": "adalora", "targets": ["vproj"]}),
        ("adapter.targets", {"method": "oft", "targets": ["vproj"]}),
        ("adapter.targets", {"method": "ia3", "targets": ["vproj"], "feedforward": []}),
        ("adapter.attention_targets", {"method": "molora", "attention_targets": ["q_proj", "vproj"]}),
        ("adapter.ffn_targets", {"method": "molora", "ffn_targets": ["vproj"]}),
    ],
)
@pytest.mark.parametrize("has_weights", [True, False], ids=["weights", "config.json"])
def test_a_target_that_the_model_lacks_is_refused(
    tmp_path: Path, has_weights: bool, key: str, adapter: dict[str, Any]
) -> None:
    shutil.copytree(
        STORIES, tmp_path / "model", ignore=None if has_weights else shutil.ignore_patterns("*.safetensors")
    )

    (fault,) = find_faults(tmp_path, adapted(**adapter))

    assert summarise([fault])[0].endswith(f" unknown-name {key}")
    assert "`vproj`; there are `v_proj` (5 modules), " in fault.message


@pytest.mark.parametrize("target", ["v_proj", "self_attn.v_proj", "embed_tokens", "lm_head", "layers.4.mlp.up_proj"])
def test_a_target_that_the_model_has_is_not(tmp_path: Path, target: str) -> None:
    shutil.copytree(STORIES, tmp_path / "model")

    assert find_faults(tmp_path, adapted(method="lora", targets=[target])) == []


def test_shards_are_looked_through_by_their_heads(tmp_path: Path) -> None:
    config = GPT2Config(n_layer=2, n_embd=8, n_head=2, vocab_size=64, n_positions=64)
    GPT2LMHeadModel(config).save_pretrained(tmp_path / "model", max_shard_size="3KB")
    assert len(list((tmp_path / "model").glob("*.safetensors"))) > 1

    (fault,) = find_faults(tmp_path, adapted(method="lora", targets=["c_atn"]))

    assert "there are `c_attn` (2 modules), " in fault.message


def test_what_only_the_node_can_tell_is_left_to_it(tmp_path: Path) -> None:
    for config in (MixtralConfig(), GPT2Config()):  # converted while it is loaded; no weights here
        folder = tmp_path / config.model_type / "model"
        config.save_pretrained(folder)

        assert find_faults(folder.parent, adapted(method="lora", targets=["anything"])) == []


@pytest.mark.parametrize(
    "content", [b"", b"version https://git-lfs.github.com/spec/v1\n", b"\xff" * 64, b"\x02" + bytes(7) + b"[]"]
)
def test_a_damaged_head_names_nothing(tmp_path: Path, content: bytes) -> None:
    shutil.copytree(STORIES, tmp_path / "model")
    (tmp_path / "model" / "model.safetensors").write_bytes(content)

    assert read_head(tmp_path / "model" / "model.safetensors") is None
    found = find_faults(tmp_path, adapted(method="lora", targets=["q_proj"]))
    assert {(fault.code, fault.key) for fault in found} == {("damaged", "model.path")}


def test_a_head_lists_what_the_file_holds() -> None:
    path = STORIES / "model.safetensors"
    head = read_head(path)
    assert head is not None

    with safe_open(path, "np") as file:
        assert set(head) - {"__metadata__"} == set(file.keys())


@pytest.mark.parametrize("model_type", NAMED_AS_SAVED)
def test_files_name_tensors_as_these_models_do(model_type: str) -> None:
    assert model_type in CONFIG_MAPPING
    assert get_checkpoint_conversion_mapping(model_type) is None


def test_modules_are_those_of_the_model_itself() -> None:
    config = json.loads((STORIES / "config.json").read_text())
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(CONFIG_MAPPING["llama"](**config))
    linear = {name for name, module in model.named_modules() if isinstance(module, torch.nn.Linear)}

    of_weights, of_config = find_modules(STORIES, config), find_modules(Path("/nowhere"), config)

    assert of_weights is not None
    assert of_config is not None
    assert {*of_weights.layers, "lm_head"} == {*of_config.layers, "lm_head"} == linear | {"model.embed_tokens"}
