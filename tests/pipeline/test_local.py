"""A pipeline of real stages without Slurm: one after the other, each started when the one before has ended."""

import json
from pathlib import Path

import pytest

from launcher.pipeline.record import Pipeline
from launcher.pipeline.selection import read_value
from launcher.run.ledger import has_finished, read_attempts
from launcher.run.paths import PipelineDir, RunDir
from launcher.run.record import RunRecord
from tests.support.command_line import launcher
from tests.support.swept_pipelines import write_swept_pipeline
from tests.support.waiting import wait_for

RECIPES = Path(__file__).parents[2] / "recipes"


@pytest.mark.slow
def test_stages_run_one_after_the_other_and_once(tmp_path: Path) -> None:
    profile = tmp_path / "local.yaml"
    roots = ", ".join(f"{name}: {tmp_path}/{name}" for name in ("runs", "data", "corpora", "models"))
    profile.write_text(f"name: here\nexecutor: local\nroots: {{{roots}}}\ngpus: {{device: cpu}}\n")
    path = tmp_path / "pipeline.yaml"
    path.write_text(
        "kind: pipeline\nname: small\nstages:\n"
        f"  corpus: {{recipe: {RECIPES}/prepare_medicalgpt.yaml, set: {{tokenizer: words}}}}\n"
        f"  vocabulary: {{recipe: {RECIPES}/medicalgpt_vocabulary.yaml, set: {{output: words}}}}\n"
        "publish: {medical: vocabulary}\n"
    )
    common = ("--rehearse", "--cluster", str(profile))

    def submit(*options: str) -> dict[str, list[dict[str, str]]]:
        printed, _ = launcher("submit", str(path), "--json", *common, *options)
        told: dict[str, list[dict[str, str]]] = json.loads(printed)
        return told

    assert launcher("validate", str(path), *common)[0].splitlines()[1:] == [
        "  vocabulary: a new run",
        "  corpus: a new run, after vocabulary",
    ]
    first = submit("--wait")

    runs = {row["stage"]: RunDir(Path(row["folder"])) for row in first["stages"]}
    assert [*runs] == ["vocabulary", "corpus"]
    assert [row["job"] for row in first["stages"]][1] == "", "the second waits for the first"
    assert all(has_finished(read_attempts(run.ledger)) for run in runs.values())
    artifacts = PipelineDir(Path(str(first["pipeline"]))).artifacts
    manifest = json.loads((artifacts / "corpora" / "medicalgpt-pretrain-rehearsal" / "manifest.json").read_text())
    assert manifest["tokenizer"]["path"] == "words"
    assert not (tmp_path / "models" / "words").exists(), "results stay in the pipeline's own folder"
    assert not (tmp_path / "models" / "medical").exists(), "a rehearsal publishes nothing"

    again = submit()

    assert (again["pipeline"], [row["reused"] for row in again["stages"]]) == (first["pipeline"], [True, True])
    assert all(len(RunRecord.read(run.record).submissions) == 1 for run in runs.values())
    printed, _ = launcher("status", "small-rehearsal", "--cluster", str(profile))
    assert printed.count("finished") == 2


@pytest.mark.slow
def test_a_sweep_runs_point_by_point_and_what_it_selects_is_evaluated(tmp_path: Path) -> None:
    profile = tmp_path / "local.yaml"
    roots = ", ".join(f"{name}: {tmp_path}/{name}" for name in ("runs", "data", "corpora", "models"))
    profile.write_text(f"name: here\nexecutor: local\nroots: {{{roots}}}\ngpus: {{device: cpu}}\n")
    path = write_swept_pipeline(tmp_path / "swept.yaml", [2, 4])
    common = ("--rehearse", "--cluster", str(profile))

    told = json.loads(launcher("submit", str(path), "--json", *common)[0])
    pipeline = Pipeline(PipelineDir(Path(told["pipeline"])))
    last = pipeline.runs()["evaluate"].root.name
    wait_for(lambda: [*(tmp_path / "runs" / ".index").glob(f"*/{last}")], "the evaluation", 300)

    runs = pipeline.runs()
    values = {name: read_value(runs[name], "token_perplexity") for name in ("adapt-r=2", "adapt-r=4")}
    best = min(values, key=lambda name: values[name] or 0.0)
    assert runs["adapt"] == runs[best]
    evaluated = json.loads((runs["evaluate"].outputs / "scores.json").read_text())
    manifest = json.loads((pipeline.folder.artifacts / "models" / "clinical" / "manifest.json").read_text())
    assert manifest["run"] == runs[best].root.name.rpartition("-")[2]
    assert evaluated["tasks"]["notes"]["n"] == 4
    again = json.loads(launcher("submit", str(path), "--json", *common)[0])
    assert (again["pipeline"], {row["reused"] for row in again["stages"]}) == (told["pipeline"], {True})
    shown, _ = launcher("status", "swept-rehearsal", "--cluster", str(profile))
    assert f"selected `{best}` of 2 points, token_perplexity" in " ".join(shown.split())
    swept, _ = launcher("status", "swept-rehearsal:adapt", "--metric", "token_perplexity", "--cluster", str(profile))
    assert swept.splitlines()[0].startswith("swept-rehearsal:adapt: 2 points: 2 finished; by token_perplexity")
