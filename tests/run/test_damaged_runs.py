"""Run directories whose files hold anything: every command that looks at runs goes on or says what is wrong."""

import json
import shutil
import tempfile
from pathlib import Path
from typing import Any

from hypothesis import strategies as st

from tests.support.command_line import launcher_with_any_code
from tests.support.fuzz import damaged, damaged_bytes, damaged_json, damaged_lines, files_beside, fuzzed
from tests.support.run_histories import History

FILES = ("run.json", "recipe.json", "identity.json")
LINES = ("attempts.jsonl", "metrics.jsonl", "pauses.jsonl", "evaluations.jsonl")
OTHERS = ("STOP", "heartbeat", "outputs/scores.json", "logs/0/rank-0.log")
COMMANDS = (
    ("status",),
    ("status", "--json"),
    ("status", "abc123"),
    ("status", "abc123", "--json"),
    ("why", "abc123"),
    ("why", "--json", "tiny name"),
    ("watch", "abc123", "--once"),
    ("watch", "--json"),
    ("usage", "--json"),
    ("usage",),
    ("report", "abc123", "--json"),
    ("report", "abc123", "--html", "PAGE"),
    ("logs", "abc123"),
    ("logs", "--batch", "abc123"),
    ("compare", "abc123", "--json"),
)
SCORES: dict[str, Any] = {
    "run": "abc123", "name": "tiny", "data_use": "open", "model": {}, "versions": {}, "trainings": [], "notes": [],
    "format": 1, "tasks": {},
}  # fmt: skip


def sound_run(runs: Path, run_id: str) -> History:
    """A run with a file of each kind."""
    history = History.begin(runs, run_id, "tiny name").submit("local-1", at=0).start(0, "local-1", at=10)
    history.begin_steps(0, at=11).train(0, 0, 4, at=12).pause(0, 4, "saving", 20, 21)
    history.end(0, "preempted", "requeue", at=30, last_step=4).start(1, "local-2", at=40).train(1, 4, 6, at=50)
    history.end(1, "finished", "done", at=60, last_step=6)
    (history.run.evaluations).write_text('{"time": 1.0, "step": 4, "validation.loss": 2.5}\n')
    history.run.identity.write_text('{"recipe": "ab", "inputs": [], "makes": null, "is_mixed": false}\n')
    history.run.outputs.mkdir(exist_ok=True)
    (history.run.outputs / "scores.json").write_text(json.dumps(SCORES))
    history.log(1, 0, "said something")
    return history


def files_of_a_run() -> dict[str, bytes]:
    with tempfile.TemporaryDirectory() as folder:
        run = sound_run(Path(folder), "abc123").run
        return {name: (run.root / name).read_bytes() for name in (*FILES, *LINES)}


def damages() -> st.SearchStrategy[tuple[str, bytes | None]]:
    """The name of a file and what it holds; None: it is a folder."""
    kinds = []
    for name, content in files_of_a_run().items():
        rows = [json.loads(line) for line in content.splitlines()] if name in LINES else json.loads(content)
        made = damaged_lines(rows) if name in LINES else damaged_json(rows)
        kinds.append(st.tuples(st.just(name), made))
    kinds += [st.tuples(st.just(name), damaged_bytes(b"text\n")) for name in OTHERS]
    kinds.append(st.tuples(st.just("outputs/scores.json"), damaged(SCORES).map(lambda one: json.dumps(one).encode())))
    kinds.append(st.tuples(st.sampled_from([*FILES, *LINES, *OTHERS]), st.none()))
    return st.one_of(kinds)


@fuzzed(st.tuples(st.lists(damages(), min_size=1, max_size=3), st.sampled_from(COMMANDS)), gate=60)
def test_a_damaged_run_is_shown_or_explained(folder: Path, damage: Any) -> None:
    changes, command = damage
    base = folder / "base"
    shutil.rmtree(base, ignore_errors=True)
    runs = base / "runs"
    run = sound_run(runs, "abc123").run
    sound_run(runs, "def456")
    for name, content in changes:
        path = run.root / name
        shutil.rmtree(path, ignore_errors=True)
        path.unlink(missing_ok=True)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.mkdir() if content is None else path.write_bytes(content)
    profile = base / "cluster.yaml"
    profile.write_text(f"name: here\nexecutor: local\nroots: {{runs: {runs}, corpora: {base}, models: {base}}}\n")
    before = set(files_beside(base, runs))

    words = [str(base / "page.html") if word == "PAGE" else word for word in command]
    code = launcher_with_any_code(*words, environ={"LAUNCHER_CLUSTER": str(profile)})

    assert code in (0, 1, 2)
    assert set(files_beside(base, runs)) - before <= {str(base / "page.html")}
