"""A recipe that has finished already is not queued again."""

import json
from pathlib import Path

import pytest

from launcher.run.paths import RunDir
from launcher.run.record import RunRecord
from tests.support.command_line import launcher

PREPARE = str(Path(__file__).parents[2] / "recipes" / "prepare_pile_pubmed.yaml")


@pytest.mark.slow
def test_what_has_finished_is_named_and_not_queued_unless_asked(tmp_path: Path) -> None:
    profile = tmp_path / "local.yaml"
    roots = ", ".join(f"{name}: {tmp_path}/{name}" for name in ("runs", "data", "corpora", "models"))
    profile.write_text(f"name: here\nexecutor: local\nroots: {{{roots}}}\ngpus: {{device: cpu}}\n")

    def submit(*options: str) -> tuple[dict[str, object], str]:
        told = launcher("submit", PREPARE, "--rehearse", "--json", "--cluster", str(profile), *options)
        [row] = json.loads(told[0])["runs"]
        return row, told[1]

    first, _ = submit("--wait")
    again, told = submit("--set", "resources.time=7min", "--set", "name=renamed")

    assert first["reused"] is False
    assert again == {**first, "reused": True}
    assert f"finished as {first['id']}" in told
    assert "with the same recipe and inputs; nothing is queued (--rerun queues it again)" in told
    run = RunDir(Path(str(first["folder"])))
    assert len(RunRecord.read(run.record).submissions) == 1

    other, told = submit("--set", "validation=0.2", "--set", "corpus=other", "--wait")
    assert (other["reused"], "nothing is queued" in told) == (False, False)
    forced, told = submit("--rerun", "--wait")

    assert (forced["reused"], "nothing is queued" in told) == (False, False)
    assert submit()[0]["id"] == forced["id"], "the newest one is named"
    assert len([path for path in (tmp_path / "runs").iterdir() if not path.name.startswith(".")]) == 3
