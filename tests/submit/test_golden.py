"""Batch scripts under review: tests/golden/ shows what a change of the template does, one script for each behaviour.

The scripts of all other shipped recipes are rendered, too, and held to what their recipe and profile say.
`pytest tests/submit/test_golden.py --update-golden` writes the golden files anew.
"""

import re
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, get_args

import jinja2
import pytest
from jinja2 import nodes

from launcher.cluster import Cluster, Gpus
from launcher.load import LoadedRecipe, load_cluster, load_recipes
from launcher.recipe import Recipe
from launcher.run.paths import SubmissionDir, submissions_root
from launcher.slurm.queue import queue_of
from launcher.submit.plan_submission import plan_calls
from launcher.submit.render import Request, render
from tests.conftest import GOLDEN
from tests.recipe.test_shipped_recipes import FOLDER, RECIPES
from tests.submit.test_render import check_shell
from tests.support.fake_slurm import FakeSlurm, directives

TEMPLATE = Path(__file__).parents[2] / "slurm_templates" / "batch.sh.j2"
Golden = Callable[[str, str], None]
Make = Callable[..., Any]


@dataclass(frozen=True)
class Case:
    """A shipped recipe on a shipped profile."""

    path: Path
    cluster: str
    rehearse: bool

    @property
    def name(self) -> str:
        stem = "-".join(self.path.relative_to(FOLDER).with_suffix("").parts)
        return f"{stem}-{self.cluster}{'-rehearsal' if self.rehearse else ''}"


@dataclass(frozen=True)
class Synthetic:
    """A profile and recipes that show what no shipped ones do."""

    shows: str
    profile: dict[str, Any] = field(default_factory=dict)
    recipes: tuple[dict[str, Any], ...] = ({},)
    """Keys that replace those of conftest.py's `cpt` recipe."""
    max_parallel: int | None = None
    below: str = ""
    """A folder that holds all others."""


@dataclass(frozen=True)
class Rendered:
    """The script of one sbatch call."""

    cluster: Cluster
    request: Request
    script: str


CASES = {
    case.name: case
    for path in RECIPES
    for cluster in ("a100", "dev", "local")
    for rehearse in (False, True)
    for case in [Case(path, cluster, rehearse)]
}

SHIPPED = {
    "biomed_llama_cpt-a100": "GPUs of several nodes, memory, modules, a network interface",
    "biomed_llama_cpt-a100-rehearsal": "no memory asked for: the partition's default",
    "clinical_llama_cpt-a100": "credentialed data on GPUs: a private umask",
    "medcare_merge-a100": "CPUs only: no request for GPUs",
    "prepare_mimic_iv-a100": "an array of shares, and the call that puts them together; credentialed",
    "prepare_pubmed_and_mimic-a100": "two corpora in one submission: only one of them is credentialed",
    "prepare_pubmed_and_mimic-a100-rehearsal": "credentialed and open runs never share a call, nor is one an array",
    "biomed_llama_cpt-dev": "a Slurm whose configuration lies in an unusual place; no modules, so no login shell",
    "clinical_llama_lora_mimic-dev-rehearsal": "the same with credentialed data",
    "prepare_medline-dev": "the same with an array",
    "biomed_llama_cpt-local": "no Slurm: the script goes to its folder itself",
    "clinical_baseline_mor-local": "no Slurm, credentialed data",
    "prepare_pubmed_and_mimic-local": "no Slurm: a corpus's shares are runs of one script, not an array",
}
SYNTHETIC = {
    "plain_profile": Synthetic("nothing is asked for that the profile does not name"),
    "every_option_of_the_site": Synthetic(
        "each option of `slurm:` that becomes a directive",
        {
            "slurm": {
                "partition": "gpu",
                "account": "bio",
                "qos": "long",
                "reservation": "course",
                "constraint": "a100&nvlink",
                "exclude": "gpu[03,07]",
                "lead": "2min",
            }
        },
    ),
    "other_options": Synthetic(
        "any other option of sbatch, quoted, and without a value; further gres beside the GPUs",
        {
            "slurm": {
                "partition": "gpu",
                "options": {
                    "licenses": "matlab:1 or $TWO",
                    "mem-per-cpu": "4G",
                    "exclusive": True,
                    "nice": 100,
                    "gres": "lscratch:10",
                },
            }
        },
        ({"resources": {"gpus_per_node": 4, "time": "1h"}},),
    ),
    "mail": Synthetic(
        "mail from Slurm", {"mail": {"address": "someone@example.org", "events": ["end", "time_limit_80"]}}
    ),
    "resubmit": Synthetic("a site that forbids requeueing", {"slurm": {"requeue": "resubmit"}}),
    "gpus_per_node": Synthetic(
        "GPUs asked for as --gpus-per-node, with a type",
        {"gpus": {"style": "gpus-per-node", "type": "h100"}},
        ({"resources": {"nodes": 2, "gpus_per_node": 4, "time": "1d2h3min4s"}},),
    ),
    "gpus_per_node_untyped": Synthetic(
        "GPUs asked for as --gpus-per-node, without a type",
        {"gpus": {"style": "gpus-per-node"}},
        ({"resources": {"gpus_per_node": 1, "time": "1h"}},),
    ),
    "gres_untyped": Synthetic(
        "GPUs asked for as --gres, without a type", {}, ({"resources": {"gpus_per_node": 4, "time": "1h"}},)
    ),
    "several_modules": Synthetic(
        "modules are loaded in one line, before anything is exported",
        {"modules": ["cuda/12.8", "gcc/13 (default)"], "environment": {"OMP_NUM_THREADS": "4"}},
    ),
    "local_with_modules": Synthetic("no Slurm, but modules", {"executor": "local", "modules": ["cuda/12.8"]}),
    "array_of_different_recipes": Synthetic(
        "an array named after its first recipe, of which few elements run at once",
        recipes=({"name": "small"}, {"name": "middle"}, {"name": "large"}),
        max_parallel=2,
    ),
    "array_of_one_recipe": Synthetic("an array of a recipe that several runs carry out", recipes=({}, {}, {})),
    "quoting": Synthetic(
        "names, values and folders that mean something to shells or to Slurm",
        {
            "network_interface": "ib0 $(hostname)",
            "environment": {"GREETING": 'it\'s "100 %" `mine`'},
            "slurm": {"conf": "/etc/dev cluster/slurm.conf"},
        },
        ({"name": 'it\'s; a "name"\nof $TWO lines'},),
        below='/it\'s a "path" 100%j $HOME [x]',
    ),
}
ARRAY_CUT = "array_cut_at_the_limit"
SCRIPTS = {*SHIPPED, *SYNTHETIC, ARRAY_CUT}
each_recipe = pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)


@pytest.fixture(autouse=True)
def somebodys_folders(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/someone")
    monkeypatch.setenv("SCRATCH", "/scratch/someone")
    monkeypatch.setenv("PATH", "/nowhere")  # no Slurm that could say how long its arrays may be


@cache
def load(path: Path, rehearse: bool) -> list[LoadedRecipe]:
    return load_recipes(path, rehearse=rehearse)


@cache
def rendered(case: Case) -> list[Rendered]:
    profile = load_cluster(str(FOLDER / "clusters" / f"{case.cluster}.yaml"))
    return render_all(load(case.path, case.rehearse), profile)


def cases_of(path: Path, *clusters: str) -> list[Case]:
    return [case for case in CASES.values() if case.path == path and case.cluster in clusters]


def calls_of(path: Path, *clusters: str) -> list[Rendered]:
    return [one for case in cases_of(path, *clusters) for one in rendered(case)]


def render_all(loaded: list[LoadedRecipe], cluster: Cluster) -> list[Rendered]:
    requests = [
        Request(tuple(loaded[run.position].recipe for run in call.runs), purpose=call.purpose)
        for call in plan_calls(loaded, queue_of(cluster))
    ]
    return [Rendered(cluster, request, script_of(request, cluster, n)) for n, request in enumerate(requests, 1)]


def script_of(request: Request, cluster: Cluster, number: int = 1, below: str = "") -> str:
    runs = Path(f"{below}/runs")
    folder = SubmissionDir(submissions_root(runs) / f"0a1b2c3d-{number}")
    return render(request, cluster, folder, runs / ".code" / "0123456789abcdef", f"{below}/usr/bin/python3")


def golden_text(name: str) -> str:
    return (GOLDEN / f"{name}.sh").read_text(encoding="utf-8")


@pytest.mark.parametrize("name", SHIPPED)
def test_a_shipped_recipe_renders_to_its_golden_script(name: str, golden: Golden) -> None:
    golden(f"{name}.sh", "".join(one.script for one in rendered(CASES[name])))


@pytest.mark.parametrize("name", SYNTHETIC)
def test_a_behaviour_that_no_shipped_recipe_has_is_in_a_golden_script(
    name: str, golden: Golden, make_cluster: Make, make_cpt: Make
) -> None:
    one = SYNTHETIC[name]
    request = Request(tuple(make_cpt(**recipe) for recipe in one.recipes), one.max_parallel)

    script = script_of(request, make_cluster(**one.profile), below=one.below)

    check_shell(script)
    golden(f"{name}.sh", script)


def test_an_array_is_cut_at_the_sites_limit(golden: Golden, make_cluster: Make, fake_slurm: FakeSlurm) -> None:
    fake_slurm.limit_arrays(2)
    loaded = load_recipes(FOLDER / "prepare_medline.yaml", ["tasks=3"])

    scripts = [one.script for one in render_all(loaded, make_cluster())]

    assert [directives(script).get("array") for script in scripts] == ["0-1", None, None]
    golden(f"{ARRAY_CUT}.sh", "".join(scripts))


def test_each_golden_script_has_a_reason_to_be_there() -> None:
    assert {path.stem for path in GOLDEN.glob("*.sh")} == SCRIPTS


@pytest.mark.parametrize("cluster", ["a100", "dev", "local"])
def test_all_that_shipped_recipes_render_is_in_a_golden_script_of_the_same_profile(cluster: str) -> None:
    scripts = [one.script for case in CASES.values() if case.cluster == cluster for one in rendered(case)]
    kept = [golden_text(name) for name in SHIPPED if CASES[name].cluster == cluster]

    assert not shapes(scripts) - shapes(kept)


def shapes(scripts: list[str]) -> set[str]:
    """Lines without what differs from recipe to recipe: numbers, and the name of the recipe."""
    lines = {line for script in scripts for line in script.splitlines()}
    named = {re.sub(r"(?<=--job-name=)\S+?(-finalise)?$", r"NAME\1", line) for line in lines}
    return {re.sub(r"\d+", "N", line) for line in named}


def test_all_that_the_template_can_write_is_in_a_golden_script() -> None:
    tree = jinja2.Environment(trim_blocks=True, lstrip_blocks=True).parse(TEMPLATE.read_text(encoding="utf-8"))
    texts = [line for data in tree.find_all(nodes.TemplateData) for line in data.data.splitlines()]
    choices = [one.value for choice in tree.find_all(nodes.CondExpr) for one in (choice.expr1, choice.expr2)]
    loops = [one.value for loop in tree.find_all(nodes.For) for one in loop.iter.find_all(nodes.Const)]
    styles = get_args(Gpus.model_fields["style"].annotation)
    shown = "".join(golden_text(name) for name in SCRIPTS)

    assert {"#SBATCH --mail-user=", "umask 077"} <= set(texts)
    assert {"no-requeue", " -l"} <= set(choices)
    assert " --local\n" in shown
    assert not [text for text in [*texts, *choices] if text not in shown]
    assert not {"requeue", *loops, *styles} - directives(shown).keys()


@each_recipe
def test_a_shipped_script_is_clean_shell(path: Path) -> None:
    for one in calls_of(path, "a100", "dev", "local"):
        check_shell(one.script)


@each_recipe
def test_a_shipped_script_asks_slurm_for_the_resources_of_its_recipes(path: Path) -> None:
    for one in calls_of(path, "a100", "dev"):
        options = directives(one.script)
        for recipe in one.request.recipes:
            wants = recipe.resources
            assert options["nodes"] == str(wants.nodes)
            assert options["ntasks-per-node"] == str(wants.gpus_per_node or 1)
            assert options["cpus-per-task"] == str(wants.cpus_per_task)
            assert options.get("gres") == (f"gpu:a100:{wants.gpus_per_node}" if wants.gpus_per_node else None)
            assert seconds(options["time"]) == wants.time.seconds
            assert is_memory_of(recipe, options.get("mem"))


def seconds(time: str) -> int:
    """Read Slurm's `days-hours:minutes:seconds`."""
    days, hours, minutes, rest = (int(part) for part in re.split("[-:]", time))
    return ((days * 24 + hours) * 60 + minutes) * 60 + rest


def is_memory_of(recipe: Recipe, mem: str | None) -> bool:
    """Tell whether Slurm is asked for a recipe's memory, rounded up to MiB."""
    if mem is None or recipe.resources.memory is None:
        return mem is None and recipe.resources.memory is None
    return mem.endswith("M") and 0 <= int(mem[:-1]) * 2**20 - recipe.resources.memory.bytes < 2**20


@each_recipe
def test_a_shipped_script_says_what_its_profile_says(path: Path) -> None:
    for one in calls_of(path, "a100", "dev"):
        profile, options = one.cluster, directives(one.script)
        assert options["signal"] == f"B:USR1@{profile.slurm.lead.seconds}"
        assert (options.get("partition"), options.get("account")) == (profile.slurm.partition, profile.slurm.account)
        assert one.script.startswith("#!/bin/bash -l\n" if profile.modules else "#!/bin/bash\n")
        assert ("export SLURM_CONF=" in one.script) == bool(profile.slurm.conf)
        interfaces = [profile.network_interface] * 2 if profile.network_interface else []
        assert re.findall("_SOCKET_IFNAME=(.*)", one.script) == interfaces


@each_recipe
def test_runs_of_one_shipped_call_are_an_array(path: Path) -> None:
    for one in calls_of(path, "a100", "dev"):
        options, size = directives(one.script), len(one.request.recipes)
        assert options.get("array") == (f"0-{size - 1}" if size > 1 else None)
        assert options["output"].endswith("slurm-%A_%a.log" if size > 1 else "slurm-%j.log")


@each_recipe
def test_each_share_of_a_shipped_corpus_has_a_run_and_one_more_completes_it(path: Path) -> None:
    for case in cases_of(path, "a100", "dev", "local"):
        recipes = [item.recipe for item in load(path, case.rehearse)]
        shares = {recipe.name: recipe.shares for recipe in recipes}

        planned = Counter(recipe.name for one in rendered(case) for recipe in one.request.recipes)

        assert planned == {name: count + 1 if count > 1 else 1 for name, count in shares.items()}


@each_recipe
def test_only_credentialed_shipped_runs_get_a_private_umask(path: Path) -> None:
    for one in calls_of(path, "a100", "dev", "local"):
        assert {recipe.data_use == "credentialed" for recipe in one.request.recipes} == {"\numask 077\n" in one.script}


@each_recipe
def test_a_shipped_script_needs_no_slurm_on_the_local_profile(path: Path) -> None:
    for one in calls_of(path, "local"):
        assert not directives(one.script)
        assert re.search(r"^cd /runs/\.submissions/0a1b2c3d-\d$", one.script, re.MULTILINE)
        assert one.script.endswith(" --local\n")


@pytest.mark.parametrize("runtime", ["apptainer", "pyxis"])
def test_a_container_leaves_the_batch_script_as_it_is(runtime: str, make_cluster: Make, make_cpt: Make) -> None:
    boxed = make_cluster(container={"runtime": runtime, "image": "train.sif", "mounts": ["/scratch"]})

    assert script_of(Request((make_cpt(),)), boxed) == golden_text("plain_profile")


def test_a_job_that_never_comes_back_is_queued_as_one_that_is_resubmitted(make_cluster: Make, make_cpt: Make) -> None:
    script = script_of(Request((make_cpt(),)), make_cluster(slurm={"requeue": "never"}))

    assert script == golden_text("resubmit")
