"""What `--json` prints: a schema for each command, kept beside the handbook, and exit codes as the handbook says.

Every test that types `--json` checks the answer against the schema: `tests/support/command_line.py`.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import typer.main
import yaml

from launcher.cli import app
from launcher.cli.json_forms import OUTPUTS
from launcher.cli.json_output import SCHEMA_VERSION, print_json
from launcher.cli.json_schemas import output_schema
from launcher.cluster import Cluster
from tests.support.command_line import insist_on_schema, launcher

ROOT = Path(__file__).parents[2]
KEPT = ROOT / "docs" / "json"
PIPELINE = str(ROOT / "recipes" / "pipelines" / "medcare.yaml")


def commands_with_json(command: Any, name: str = "") -> Iterator[str]:
    for part, inner in getattr(command, "commands", {}).items():
        yield from commands_with_json(inner, f"{name} {part}".strip())
    if any("--json" in parameter.opts for parameter in command.params):
        yield name


def test_each_command_with_json_has_a_schema() -> None:
    assert set(commands_with_json(typer.main.get_command(app))) == set(OUTPUTS)


@pytest.mark.parametrize("command", OUTPUTS)
def test_schemas_are_those_that_are_kept(command: str, pytestconfig: pytest.Config) -> None:
    made = output_schema(command)
    jsonschema.Draft202012Validator.check_schema(made)
    kept = KEPT / f"{command.replace(' ', '-')}.json"
    if pytestconfig.getoption("--update-golden"):
        kept.write_text(json.dumps(made, indent=1) + "\n", encoding="utf-8")

    assert json.loads(kept.read_text(encoding="utf-8")) == made, "run this test with --update-golden; read the diff"


def test_every_kept_schema_is_of_a_command_and_the_handbook_leads_to_it() -> None:
    page = (ROOT / "docs" / "json-output.md").read_text(encoding="utf-8")
    names = {path.name for path in KEPT.glob("*.json")}

    assert names == {f"{command.replace(' ', '-')}.json" for command in OUTPUTS}
    assert all(f"(json/{name})" in page for name in names)


def test_every_key_that_is_printed_is_required_and_versioned() -> None:
    for command in OUTPUTS:
        schema = output_schema(command)
        forms = [schema["$defs"][one["$ref"].rpartition("/")[2]] for one in schema.get("anyOf", [])] or [schema]
        for form in forms:
            assert form["properties"]["schema_version"]["const"] == SCHEMA_VERSION
            assert set(form["required"]) == set(form["properties"])
        assert all("type" in form["properties"] for form in forms) or len(forms) == 1


def test_numbers_that_are_none_become_null(capsys: pytest.CaptureFixture[str]) -> None:
    print_json({"loss": float("nan"), "all": [float("inf"), 1.5, "nan", Path("a")], "one": {"a": -float("inf")}}, "x")

    assert json.loads(capsys.readouterr().out, parse_constant=pytest.fail) == {
        "schema_version": SCHEMA_VERSION,
        "type": "x",
        "loss": None,
        "all": [None, 1.5, "nan", "a"],
        "one": {"a": None},
    }


def test_the_check_finds_keys_that_no_schema_names_and_keys_that_are_missing() -> None:
    printed = json.loads(launcher("recipes", "--json")[0])
    for changed in ({**printed, "more": 1}, {"recipes": []}, {**printed, "recipes": [{"recipe": 1}]}):
        with pytest.raises(AssertionError, match="launcher recipes --json"):
            insist_on_schema(["recipes", "--json"], json.dumps(changed))


def test_the_schema_of_an_output_can_be_asked_for() -> None:
    assert json.loads(launcher("schema", "--json-of", "corpus show")[0]) == output_schema("corpus show")
    assert "no command with `--json`; write one of `compare`" in launcher("schema", "--json-of", "x", code=2)[1]
    assert "leave `cpt` out" in launcher("schema", "cpt", "--json-of", "why", code=2)[1]


def test_stages_of_a_pipeline_are_told_as_json(make_cluster: Any, tmp_path: Path) -> None:
    cluster: Cluster = make_cluster()
    profile = tmp_path / "cluster.yaml"
    profile.write_text(yaml.safe_dump(json.loads(cluster.model_dump_json(exclude_defaults=True))))
    broken = tmp_path / "broken.yaml"
    broken.write_text("kind: pipeline\nname: p\nstages: {one: {recipe: missing.yaml}}\n")

    drawn = json.loads(launcher("graph", PIPELINE, "--json")[0])
    faulty = json.loads(launcher("validate", str(broken), "--json", "--cluster", str(profile), code=2)[0])

    assert drawn["is_over"] and {"name", "kind", "awaits"} <= drawn["stages"][0].keys()
    assert (faulty["type"], faulty["stages"]) == ("pipeline", []) and faulty["faults"]


def test_a_dev_cluster_that_does_not_run_is_told_as_json(tmp_path: Path) -> None:
    told = json.loads(launcher("devcluster", "status", "--dir", str(tmp_path / "none"), "--json")[0])

    assert (told["is_running"], told["settings"]) == (False, None)
