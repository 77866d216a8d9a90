"""kind: merge, and the folder it makes: files beside the weights, its manifest, its name."""

import errno
import json
import stat
from pathlib import Path
from types import SimpleNamespace

import pytest
from transformers import AutoTokenizer

from jobs.kinds.merge import main
from jobs.models.merge.inputs import make_plan
from jobs.rank.publish import staging_folder
from jobs.rank.stop_flag import STOP
from launcher.errors import LauncherError
from launcher.run.ledger import read_attempts
from tests.support.merge_runs import (
    BASE,
    fp32,
    load,
    make_adapter,
    make_base,
    make_merge,
    merged_by,
)
from tests.support.prepare_runs import files_of
from tests.support.stops import stopped_after

pytestmark = [
    pytest.mark.slow,
    # of peft, about embeddings that are tied
    pytest.mark.filterwarnings("ignore:Model (has|with) `tie_word_embeddings=True`:UserWarning"),
]


def test_files_beside_the_weights_are_copied_as_they_are(tmp_path):
    base = make_base(tmp_path)
    (base / "generation_config.json").write_text('{"temperature": 0.6, "do_sample": false, "eos_token_id": 2}')
    (base / "chat_template.jinja").write_text("{{ messages[0]['content'] }}!")
    make_adapter(tmp_path / "adapter")

    merged = merged_by(fp32(tmp_path, "./adapter"))

    names = {"tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"}
    for name in names | {"generation_config.json", "chat_template.jinja"}:
        assert (merged / name).read_bytes() == (base / name).read_bytes()
    chat = [{"role": "user", "content": "Hello"}]
    assert AutoTokenizer.from_pretrained(merged).apply_chat_template(chat, tokenize=False) == "Hello!"


def test_others_may_read_all_files_of_an_open_model(tmp_path):
    make_adapter(tmp_path / "adapter")

    merged = merged_by(fp32(tmp_path, "./adapter"))

    expected = (merged / "config.json").stat().st_mode
    assert {path.name for path in merged.iterdir() if path.stat().st_mode != expected} == set()


@pytest.mark.slow
def test_the_tokenizer_of_the_last_adapter_that_has_one_wins_and_takes_the_template_of_the_base(tmp_path):
    base = make_base(tmp_path)
    (base / "chat_template.jinja").write_text("from the base")
    for name, mark in (("first", "</s>"), ("second", "<s>"), ("third", None)):
        make_adapter(tmp_path / name)
        if mark:
            tokenizer = AutoTokenizer.from_pretrained(BASE)
            tokenizer.pad_token = mark
            tokenizer.save_pretrained(tmp_path / name)

    merged = AutoTokenizer.from_pretrained(merged_by(fp32(tmp_path, "./first", "./second", "./third")))

    assert merged.pad_token == "<s>"
    assert merged.chat_template == "from the base"


def test_the_manifest_names_what_the_model_is_made_of(tmp_path):
    make_adapter(tmp_path / "first")
    make_adapter(tmp_path / "second")
    (tmp_path / "first" / "manifest.json").write_text('{"corpora": ["medline"], "data_use": "open"}')

    merged = merged_by(fp32(tmp_path, "./first", {"path": "./second", "only": "attention"}))

    manifest = json.loads((merged / "manifest.json").read_text())
    assert [(one["path"], one["only"]) for one in manifest["adapters"]] == [
        ("./first", "all"),
        ("./second", "attention"),
    ]
    first, second = (one["files"]["adapter_model.safetensors"] for one in manifest["adapters"])
    assert len(first) == len(second) == 64
    assert first != second
    assert "model.safetensors" in manifest["base"]["files"]
    assert (manifest["base_model"], manifest["corpora"], manifest["data_use"]) == ("stories260k", ["medline"], "open")
    assert 0 < manifest["adapters"][0]["difference"]["largest"] < 1e-4


@pytest.mark.parametrize("where", ["models/stories260k", "adapter"])
def test_what_was_made_of_credentialed_data_stays_credentialed(tmp_path, where):
    make_base(tmp_path)
    make_adapter(tmp_path / "adapter")
    (tmp_path / where / "manifest.json").write_text('{"data_use": "credentialed", "corpora": ["mimic-iv"]}')

    with pytest.raises(LauncherError, match=r"data_use: .* write `credentialed`"):
        main(fp32(tmp_path, "./adapter"))
    merged = merged_by(fp32(tmp_path, "./adapter", data_use="credentialed"))

    manifest = json.loads((merged / "manifest.json").read_text())
    assert (manifest["data_use"], manifest["corpora"]) == ("credentialed", ["mimic-iv"])
    assert stat.S_IMODE(merged.stat().st_mode) == 0o700


@pytest.mark.slow
def test_one_of_several_adapters_of_a_credentialed_export_is_credentialed(tmp_path):
    make_adapter(tmp_path / "export" / "clinical")
    (tmp_path / "export" / "manifest.json").write_text('{"data_use": "credentialed"}')

    with pytest.raises(LauncherError, match="credentialed"):
        main(fp32(tmp_path, "./export/clinical"))


def test_a_merge_that_is_done_is_not_done_again(tmp_path):
    make_adapter(tmp_path / "adapter")
    context = fp32(tmp_path, "./adapter")
    folder = merged_by(context)
    before = files_of(folder), folder.stat().st_ino

    with STOP.heeding(lambda: True):
        main(context)

    assert (files_of(folder), folder.stat().st_ino) == before
    (attempt,) = read_attempts(context.run.ledger)
    assert (attempt.first_step, attempt.last_step, attempt.total_steps, attempt.reason) == (0, 1, 1, "finished")


def test_a_name_that_is_taken_by_something_else_is_refused(tmp_path):
    make_adapter(tmp_path / "adapter")
    folder = merged_by(fp32(tmp_path, "./adapter"))
    before = files_of(folder)

    with pytest.raises(LauncherError, match="write another name as `output`"):
        main(make_merge(tmp_path, "./adapter", dtype="bf16"))
    assert files_of(folder) == before


def test_a_stop_leaves_nothing_and_the_next_attempt_starts_again(tmp_path):
    make_adapter(tmp_path / "adapter")
    context = fp32(tmp_path, "./adapter")

    with stopped_after(0):
        main(context)
    assert {path.name for path in (tmp_path / "models").iterdir()} == {"stories260k"}
    main(context)


@pytest.mark.slow
def test_what_a_killed_attempt_left_is_replaced(tmp_path):
    make_adapter(tmp_path / "adapter")
    context = fp32(tmp_path, "./adapter")
    (tmp_path / "models" / ".merged.abc123").mkdir()
    (tmp_path / "models" / ".merged.abc123" / "model-00001-of-00009.safetensors").write_bytes(b"half")

    folder = merged_by(context)

    assert {path.name for path in (tmp_path / "models").iterdir()} == {"stories260k", "merged"}
    assert not (folder / "model-00001-of-00009.safetensors").exists()


@pytest.mark.slow
def test_without_a_name_the_model_is_an_output_of_the_run(tmp_path):
    make_adapter(tmp_path / "adapter")
    context = fp32(tmp_path, "./adapter", output=None)

    main(context)

    assert load(context.run.outputs / "model").config.vocab_size == 512


@pytest.mark.parametrize(("first", "second"), [("open", "credentialed"), ("credentialed", "open")])
def test_a_merge_with_other_rules_for_its_data_is_another_one(tmp_path, first, second):
    make_adapter(tmp_path / "adapter")
    plan = make_plan(fp32(tmp_path, "./adapter", data_use=first))
    plan.folder.mkdir(parents=True)
    (plan.folder / "manifest.json").write_text(json.dumps({"inputs": plan.inputs, "data_use": first}))
    before = files_of(plan.folder)

    with pytest.raises(LauncherError, match=f"was published with `data_use: {first}`.* another name as `output`"):
        main(fp32(tmp_path, "./adapter", data_use=second))

    assert files_of(plan.folder) == before


def test_a_folder_of_models_that_may_not_be_written_says_so(stranger):
    context = SimpleNamespace(record=SimpleNamespace(id="abc123"), recipe=SimpleNamespace(data_use="open"))
    (stranger / "models").mkdir(mode=0o555)

    with (
        pytest.raises(LauncherError, match=r"permission denied; ask its owner, or set a `roots\.models` of your own"),
        staging_folder(stranger / "models" / "made", context),
    ):
        pass


def test_a_file_system_that_can_only_be_read_says_so(tmp_path, monkeypatch):
    context = SimpleNamespace(record=SimpleNamespace(id="abc123"), recipe=SimpleNamespace(data_use="open"))

    def fail(self, *_, **__):
        raise OSError(errno.EROFS, "Read-only file system", str(self))

    monkeypatch.setattr(Path, "mkdir", fail)

    with (
        pytest.raises(LauncherError, match=r"models: the file system is read-only; ask its owner, or set a `roots"),
        staging_folder(tmp_path / "models" / "made", context),
    ):
        pass
