"""Faults of a pipeline's stages: at their line, under the key that the pipeline's file has, and of which stage."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.command_line import launcher
from tests.support.recipe_files import RECIPE

MERGE = "kind: merge, name: m, base_model: {}, adapters: [{{path: lora}}], output: {}, resources: {{time: 1h}}"
Faults = Callable[..., list[tuple[str, int | None, str, str, str]]]


@pytest.fixture
def faults(tmp_path: Path) -> Faults:
    """Write a pipeline, and `q/s1.yaml` for its stages, and have `validate --json` find what is wrong."""
    roots = ", ".join(f"{name}: {tmp_path}/{name}" for name in ("runs", "data", "corpora", "models"))
    (tmp_path / "site.yaml").write_text(f"name: here\nexecutor: local\nroots: {{{roots}}}\ngpus: {{device: cpu}}\n")
    (tmp_path / "corpora" / "abstracts").mkdir(parents=True)
    (tmp_path / "corpora" / "abstracts" / "manifest.json").write_text('{"data_use": "open"}')
    (tmp_path / "q").mkdir()
    (tmp_path / "q" / "base.yaml").write_text("precision: {dtype: bf16}\n")
    (tmp_path / "q" / "s1.yaml").write_text(f"base: base.yaml\n{RECIPE}")

    def find(text: str, *options: str, site: bool = True) -> list[tuple[str, int | None, str, str, str]]:
        path = tmp_path / "p.yaml"
        path.write_text(f"kind: pipeline\nname: p\n{text}")
        place = [f"--cluster={tmp_path}/site.yaml"] if site else []
        typed = ["validate", str(path), *options, *place]
        found = json.loads(launcher(*typed, "--json", code=2)[0])
        assert found["type"] == "pipeline" and found["stages"] == []
        lines = launcher(*typed, code=2)[1]
        shown = [{**one, "line": f":{one['line']}" if one["line"] else ""} for one in found["faults"]]
        assert lines.count("\n") == len(shown)
        for one in shown:
            where = f"{one['file']}{one['line']}: {one['key']}: " if one["line"] else ""
            assert f"{where}{one['message']}\n" in lines
        return [
            (one["file"].replace(f"{tmp_path}/", ""), one["line"], one["key"], one["code"], one["message"])
            for one in found["faults"]
        ]

    return find


@pytest.mark.parametrize("site", [True, False])
def test_a_fault_of_what_a_stage_sets_is_the_stages(faults: Faults, tmp_path: Path, site: bool) -> None:
    [unknown] = faults("stages:\n  a:\n    recipe: q/s1.yaml\n    set: {optm.lr: 1e-5}\n", site=site)
    [wrong] = faults("stages:\n  a: {recipe: q/s1.yaml, set: {\n    optim.lr: fast}}\n", site=site)

    where = f"(of stage `a`, {tmp_path}/q/s1.yaml)"
    assert unknown[:4] == ("p.yaml", 6, "stages.a.set.optm.lr", "unknown-key")
    assert unknown[4] == f"unknown key; did you mean `optim`? {where}"
    assert wrong[:4] == ("p.yaml", 5, "stages.a.set.optim.lr", "wrong-type") and wrong[4].endswith(where)


def test_a_fault_at_the_site_of_what_a_stage_sets_is_the_stages(faults: Faults, tmp_path: Path) -> None:
    [found] = faults("stages:\n  a:\n    recipe: q/s1.yaml\n    set:\n      model.path: nowhere\n")

    assert found[:4] == ("p.yaml", 7, "stages.a.set.model.path", "not-found")
    assert found[4].endswith(f"(of stage `a`, {tmp_path}/q/s1.yaml)")


def test_a_fault_of_what_the_pipeline_sets_names_all_stages_that_have_it(faults: Faults) -> None:
    [found] = faults("set:\n  optim.lr: -1\nstages: {a: q/s1.yaml, b: {recipe: q/s1.yaml, set: {name: other}}}\n")

    assert found[:4] == ("p.yaml", 4, "set.optim.lr", "out-of-range")
    assert found[4].endswith("(of stages `a`, `b`)")


def test_faults_of_a_stages_own_file_and_of_its_base_say_so(faults: Faults, tmp_path: Path) -> None:
    (tmp_path / "q" / "base.yaml").write_text("precision: {dtype: bf17}\n")
    (tmp_path / "q" / "s1.yaml").write_text(f"base: base.yaml\n{RECIPE}".replace("1e-5", "fast"))

    base, own = sorted(faults("stages: {a: q/s1.yaml, b: q/s1.yaml}\n", site=False))

    assert base[:3] == ("q/base.yaml", 1, "precision.dtype")
    assert base[4].endswith(f"(a base of `{tmp_path}/q/s1.yaml`)")
    assert own[:3] == ("q/s1.yaml", 10, "optim.lr") and "(" not in own[4]


def test_a_fault_of_a_recipe_in_the_pipeline_is_below_the_stage(faults: Faults) -> None:
    [found] = faults(f"stages:\n  a: {{recipe: {{{MERGE.format('base', 'm')}, toleranec: 1}}}}\n", site=False)

    assert found[:4] == ("p.yaml", 4, "stages.a.recipe.toleranec", "unknown-key")


@pytest.mark.parametrize("site", [True, False])
def test_stages_that_wait_for_each_other_by_name_are_a_fault_at_a_stage(faults: Faults, site: bool) -> None:
    [found] = faults(
        f"stages:\n  a: {{recipe: {{{MERGE.format('b', 'a')}}}}}\n  b: {{recipe: {{{MERGE.format('a', 'b')}}}}}\n",
        site=site,
    )

    assert found == (
        "p.yaml",
        4,
        "stages.a",
        "conflict",
        "a -> b -> a: these stages wait for each other; change a name",
    )


@pytest.mark.parametrize(
    ("needs", "key", "line", "said"),
    [
        ("b: {recipe: {%s}}\n  a: {recipe: {%s},\n    needs: [b]}", "stages.a.needs", 6, "a -> b -> a"),
        ("c: {recipe: {%s}, needs: [c]}\n  b: {recipe: {%s}}", "stages.c.needs", 4, "c -> c"),
    ],
)
def test_of_stages_that_wait_for_each_other_by_needs_that_is_at_fault(
    faults: Faults, needs: str, key: str, line: int, said: str
) -> None:
    [found] = faults(f"stages:\n  {needs % (MERGE.format('a', 'b'), MERGE.format('x', 'a'))}\n", site=False)

    need = "c" if "c" in said else "b"
    assert found[:4] == ("p.yaml", line, key, "conflict")
    assert found[4].endswith(f"these stages wait for each other; remove `{need}` here, or another of these names")
    assert {*found[4].partition(":")[0].split(" -> ")} == {*said.split(" -> ")}


def test_graph_and_plan_tell_of_the_circle_at_its_line(faults: Faults, tmp_path: Path) -> None:
    faults(f"stages:\n  a: {{recipe: {{{MERGE.format('x', 'a')}}}, needs: [a]}}\n")

    for words in (["graph"], ["plan"], ["submit"]):
        said = launcher(*words, f"{tmp_path}/p.yaml", f"--cluster={tmp_path}/site.yaml", code=2)[1]
        assert f"{tmp_path}/p.yaml:4: stages.a.needs: a -> a: these stages wait for each other" in said


def test_a_stage_without_a_recipe_is_told_what_is_missing(faults: Faults) -> None:
    [found] = faults("stages:\n  a: {set: {seed: 1}}\n", site=False)

    assert found[:4] == ("p.yaml", 4, "stages.a.recipe", "missing-key")
    assert found[4].startswith("required, but missing (a recipe file, relative to this one, or a recipe")
    assert found[4].endswith("write `recipe: ...`")


def test_a_key_that_stages_do_not_have_is_told_those_that_they_have(faults: Faults) -> None:
    [near] = faults("stages:\n  a: {recipe: q/s1.yaml, need: [b]}\n", site=False)
    [far] = faults("stages:\n  a: {recipe: q/s1.yaml, xyz: [b]}\n", site=False)

    assert near[2:] == ("stages.a.need", "unknown-key", "unknown key; did you mean `needs`?")
    assert "known keys: `recipe`, `set`, `needs`, `sweep`, `select`" in far[4]


def test_a_pipeline_without_a_stage_is_told_to_write_one(faults: Faults) -> None:
    [found] = faults("stages: {}\n", site=False)

    assert found[2:] == (
        "stages", "out-of-range", "an empty section is not valid here; write at least 1 line of `key: value`",
    )  # fmt: skip


def test_what_keeps_validate_from_checking_is_a_fault_as_json_too(faults: Faults, tmp_path: Path) -> None:
    [swept] = faults("stages: {a: q/s1.yaml}\n", "--sweep", "seed=1,2", site=False)
    assert swept[4].startswith("--sweep seed=1,2: is for recipes; write a `sweep` into the stage")

    for file, form in ((f"{tmp_path}/p.yaml", "pipeline"), (f"{tmp_path}/q/s1.yaml", "recipes")):
        for profile, said in (("nope", "no cluster profile `nope`"), ("~no-user/x", "there is no user `no-user`")):
            printed, _ = launcher("validate", file, "--json", "--cluster", profile, code=2)
            [fault] = json.loads(printed)["faults"]
            assert (json.loads(printed)["type"], fault["file"]) == (form, f"--cluster {profile}")
            assert said in fault["message"]
        (tmp_path / "bad.yaml").write_text("name: here\nroots: {}\n")
        printed, _ = launcher("validate", file, "--json", "--cluster", f"{tmp_path}/bad.yaml", code=2)
        assert {one["key"] for one in json.loads(printed)["faults"]} == {"roots.runs", "roots.corpora", "roots.models"}
