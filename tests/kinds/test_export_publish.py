"""kind: export, and the folder it makes: its manifest, its name, what binds its data, and what a kill leaves."""

import json
import stat

import pytest
from transformers import AutoModelForCausalLM, AutoTokenizer

from jobs.export.inputs import make_plan
from jobs.kinds import export
from jobs.kinds.export import main
from jobs.rank.stop_flag import STOP
from launcher.errors import LauncherError
from launcher.run.ledger import read_attempts
from tests.support.export_runs import LLAMA, exported_by, make_export, one_layer
from tests.support.kill_at_point import Killed
from tests.support.merge_runs import make_adapter
from tests.support.prepare_runs import files_of
from tests.support.stops import stopped_after

pytestmark = [
    pytest.mark.slow,
    # of peft, about embeddings that are tied
    pytest.mark.filterwarnings("ignore:Model (has|with) `tie_word_embeddings=True`:UserWarning"),
]


def names_in(folder):
    return {path.name for path in folder.iterdir()}


def test_the_report_and_the_manifest_say_what_was_made_of_what(tmp_path):
    make_adapter(tmp_path / "lora")
    said = {"corpora": ["medline"], "data_use": "open", "system_prompt": "Help."}
    (tmp_path / "lora" / "manifest.json").write_text(json.dumps(said))
    context = make_export(tmp_path, model={"path": "model", "adapters": [{"path": "./lora", "trained_on": str(LLAMA)}]})

    folder = exported_by(context)

    manifest = json.loads((folder / "manifest.json").read_text())
    report = json.loads(context.run.export_report.read_text())
    assert report == {"folder": str(folder), "uploaded": None, **manifest}
    assert (manifest["format"], manifest["task"], manifest["corpora"]) == ("safetensors", "language model", ["medline"])
    assert manifest["system_prompt"] == "Help."
    assert 0 < manifest["adapters"][0]["difference"]["largest"] < 1e-3
    assert 0 < manifest["verification"]["largest"] <= manifest["verification"]["limits"]["difference"]
    for name in ("tokenizer.json", "tokenizer_config.json", "generation_config.json"):
        assert (folder / name).read_bytes() == (LLAMA / name).read_bytes()
    mode = (folder / "config.json").stat().st_mode
    assert {path.name for path in folder.iterdir() if path.stat().st_mode != mode} == set()


def test_what_was_made_of_credentialed_data_stays_credentialed(tmp_path):
    (one_layer(tmp_path) / "manifest.json").write_text('{"data_use": "credentialed", "corpora": ["mimic-iv"]}')

    with pytest.raises(LauncherError, match=r"data_use: .* write `credentialed`"):
        main(make_export(tmp_path))
    folder = exported_by(make_export(tmp_path, data_use="credentialed"))

    manifest = json.loads((folder / "manifest.json").read_text())
    assert (manifest["data_use"], manifest["corpora"]) == ("credentialed", ["mimic-iv"])
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700


def test_an_export_that_is_done_is_not_done_again_and_its_report_comes_back(tmp_path):
    context = make_export(tmp_path)
    folder = exported_by(context)
    before = files_of(folder), folder.stat().st_ino
    context.run.export_report.unlink()

    with STOP.heeding(lambda: True):
        main(context)

    assert (files_of(folder), folder.stat().st_ino) == before
    assert json.loads(context.run.export_report.read_text())["run"] == "abc123"
    (attempt,) = read_attempts(context.run.ledger)
    assert (attempt.first_step, attempt.last_step, attempt.total_steps, attempt.reason) == (0, 3, 3, "finished")
    with pytest.raises(LauncherError, match="write another name as `output`"):
        main(make_export(tmp_path, dtype="bf16"))
    assert files_of(folder) == before[0]


def test_a_stop_leaves_nothing_and_the_next_attempt_starts_again(tmp_path):
    context = make_export(tmp_path)

    with stopped_after(1):
        main(context)
    assert names_in(tmp_path / "models") == {"model"}
    main(context)


def test_a_refused_export_is_not_published_and_leaves_nothing(tmp_path):
    with pytest.raises(LauncherError, match="nothing was published"):
        main(make_export(tmp_path, dtype="bf16", tolerance=1e-6))

    assert names_in(tmp_path / "models") == {"model"}


@pytest.mark.parametrize(("first", "second"), [("open", "credentialed"), ("credentialed", "open")])
def test_an_export_with_other_rules_for_its_data_is_another_one(tmp_path, first, second):
    plan = make_plan(make_export(tmp_path, data_use=first))
    plan.folder.mkdir(parents=True)
    (plan.folder / "manifest.json").write_text(json.dumps({"inputs": plan.inputs, "data_use": first}))
    before = files_of(plan.folder)

    with pytest.raises(LauncherError, match=f"was published with `data_use: {first}`.* another name as `output`"):
        main(make_export(tmp_path, data_use=second))

    assert files_of(plan.folder) == before


def test_the_report_is_there_before_an_upload_and_then_says_where(tmp_path, monkeypatch):
    context = make_export(tmp_path, push_to_hub="me/it", secrets=["HF_TOKEN"])
    reports = []

    def failing(*_):
        reports.append(json.loads(context.run.export_report.read_text()))
        raise ConnectionError

    monkeypatch.setattr(export, "push", failing)
    with pytest.raises(ConnectionError):
        main(context)
    monkeypatch.setattr(export, "push", lambda *_: "https://huggingface.co/me/it/commit/1")
    main(context)

    report = json.loads(context.run.export_report.read_text())
    assert reports == [report | {"uploaded": None}]
    assert (report["uploaded"], report["run"]) == ("https://huggingface.co/me/it/commit/1", "abc123")


def killed_at(folder, point):
    """An export that was killed at a point, and what is there afterwards."""
    folder.mkdir()
    one_layer(folder)
    killed = Killed(lambda: main(make_export(folder)), point)
    made = folder / "models" / "made"
    if made.exists():
        assert (made / "manifest.json").is_file()
        AutoModelForCausalLM.from_pretrained(made)
        AutoTokenizer.from_pretrained(made)
    return killed


def require_recovered(folder):
    context = make_export(folder)
    main(context)
    assert names_in(folder / "models") == {"model", "made"}
    assert json.loads(context.run.export_report.read_text())["run"] == "abc123"


def test_a_kill_before_and_after_the_rename_leaves_a_whole_export_or_none(tmp_path):
    points = killed_at(tmp_path / "whole", 0).points
    is_there = {}
    for point in (1, points - 5, points - 4, points - 3, points):
        folder = tmp_path / str(point)
        assert not killed_at(folder, point).came_to_its_end
        is_there[point] = (folder / "models" / "made").exists()
        require_recovered(folder)
    assert is_there[1] is False
    assert is_there[points] is True


@pytest.mark.long
def test_a_kill_at_any_point_leaves_a_whole_export_or_none(tmp_path):
    for point in range(1, killed_at(tmp_path / "whole", 0).points + 1):
        folder = tmp_path / str(point)
        killed_at(folder, point)
        require_recovered(folder)
