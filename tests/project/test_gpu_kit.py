"""`make gpu`: on CPUs all but the device is tried, so that an owner of GPUs is not surprised."""

import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from bench.gpu.__main__ import carry_out
from bench.gpu.measurement import Measurement, Outcome, Place
from bench.gpu.page import page
from bench.gpu.programme import peer_name, programme
from bench.gpu.trainings import Sizes, Training, recipe_of
from launcher.recipe import read_recipe
from tests.support.browser import browser
from tests.support.waiting import PATIENCE, wait_for

ROOT = Path(__file__).parents[2]


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path, "cpu", 0, smallest=True)


def program(does: str, **changes: Any) -> Measurement:
    settings: dict[str, Any] = {"seconds": PATIENCE, "needs": (), **changes}
    return Measurement(does, "group", "tests.support.gpu_kit_programs", (does,), **settings)


def outcomes(place: Place, *chosen: Measurement, seconds: float = 1000) -> list[Outcome]:
    return carry_out(chosen, place, time.monotonic() + seconds)


def is_running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_one_failure_does_not_end_the_rest(place: Place) -> None:
    failed, skipped, answered = outcomes(place, program("fails"), program("skips"), program("answers"))

    assert (failed.status, failed.why) == ("failed", "ended with 1: ValueError: the matrix is singular")
    assert (skipped.status, skipped.why) == ("skipped", "too large")
    assert answered.status == "measured"
    assert answered.result["arguments"] == ["--work", str(place.work), "--device", "cpu", "--smallest"]
    assert float(answered.result["KIT_SECONDS"]) == PATIENCE


def test_what_a_failed_measurement_found_is_kept(place: Place) -> None:
    (outcome,) = outcomes(place, program("finds"))

    assert (outcome.status, outcome.why) == ("failed", "failed: b")
    assert outcome.result["passed"] == ["a"]


def test_what_takes_too_long_is_ended_with_all_that_it_started(place: Place) -> None:
    pid = place.work / "pid"
    (outcome,) = outcomes(place, program(f"hangs {pid}", seconds=5))

    assert (outcome.status, outcome.why) == ("out of time", "was ended after 5 s")
    wait_for(lambda: not is_running(int(pid.read_text())), "the end of the child")


def test_what_is_not_installed_not_there_or_not_measured_is_skipped_with_the_reason(place: Place) -> None:
    on_gpus = Place(place.work, "cuda", 1, smallest=False)
    missing, after, for_gpu = outcomes(
        place, program("answers", needs=("no_such_package",)), program("skips", after=("answers",)),
        program("fails", only="cuda"),
    )  # fmt: skip
    (few,) = outcomes(on_gpus, program("answers", gpus=2))

    assert missing.why == f"needs no_such_package, which {sys.executable} does not have"
    assert after.why == "needs `answers`, which was not measured"
    assert for_gpu.why == "is for a GPU, and this machine has no GPU that torch sees"
    assert few.why == "needs 2 GPUs, and this machine has 1"
    assert {one.status for one in (missing, after, for_gpu, few)} == {"skipped"}


def test_what_has_no_time_left_is_said_to_have_had_none(place: Place) -> None:
    (outcome,) = outcomes(place, program("answers"), seconds=0)

    assert (outcome.status, outcome.why) == ("out of time", "the time for all was over")


@pytest.mark.parametrize("gpus", [0, 1, 2, 8])
def test_each_measurement_has_its_own_name_and_reads_what_came_before(gpus: int) -> None:
    names: list[str] = []
    for one in programme(gpus):
        assert one.name not in names
        assert set(one.after) <= set(names), one.name
        names.append(one.name)
    assert peer_name(Training("cpt")) in names


def test_traces_and_the_first_tests_come_before_variants() -> None:
    names = [one.name for one in programme(2)]

    early = [name for name in names if name.endswith(": trace")] + ["tests, first"]
    assert len(early) == 5
    assert max(map(names.index, early)) < names.index("1B cpt compiled") < names.index("tests, others")


@pytest.mark.parametrize("smallest", [True, False])
def test_recipes_of_the_kit_are_recipes(smallest: bool) -> None:
    trainings = [Training.read(one.arguments[0]) for one in programme(2) if one.module == "bench.gpu.our_job"]

    assert len(trainings) > 20
    for one in trainings:
        recipe = read_recipe(json.dumps(recipe_of(one, smallest)))
        assert recipe.resources.world_size == one.gpus
        assert recipe.trains
        steps = Sizes.of(smallest).steps if one.saves else 10_000
        assert recipe.checkpoint.interval.steps == steps, "the first save is when all has been measured"


@pytest.mark.slow
def test_the_kit_measures_a_training_and_its_peer_on_cpus(tmp_path: Path) -> None:
    names = ["machine", "1B files", "1B cpt", "1B cpt: bare torch", "1B cpt: trace", "all-reduce"]
    report = run_kit(tmp_path, *names)

    done = {one["name"]: one for one in report["measurements"]}
    assert {name: done[name]["status"] for name in names} == dict.fromkeys(names, "measured"), report
    ours, bare = (done[name]["result"] for name in ("1B cpt", "1B cpt: bare torch"))
    assert ours["losses"][:7] == pytest.approx(bare["losses"][:7], abs=2e-3)
    assert 0.8 < ours["planned"]["allocated"] / done["1B cpt: trace"]["result"]["memory"] < 1.25


@pytest.mark.slow
@pytest.mark.long
def test_all_of_the_kit_works_on_cpus(tmp_path: Path) -> None:
    report = run_kit(tmp_path)

    wrong = [one for one in report["measurements"] if one["status"] in ("failed", "out of time")]
    assert wrong == []
    for one in report["measurements"]:
        peer = next((other for other in report["measurements"] if other["name"].startswith(f"{one['name']}: ")), None)
        if peer and "losses" in peer["result"]:
            assert one["result"]["losses"][:7] == pytest.approx(peer["result"]["losses"][:7], abs=5e-3), one["name"]


def run_kit(folder: Path, *names: str) -> dict[str, Any]:
    only = [word for name in names for word in ("--only", name)]
    options = ["--smallest", "--budget", "3000", "--output", str(folder), *only]
    done = subprocess.run(
        [sys.executable, "-m", "bench.gpu", *options], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "no number means anything" in (folder / "gpu-report.html").read_text()
    report: dict[str, Any] = json.loads((folder / "gpu-report.json").read_text())
    return report


REPORT: dict[str, Any] = {
    "when": "2026-11-30 12:00",
    "seconds": 412.0,
    "device": "cuda",
    "gpus": 2,
    "smallest": False,
    "measurements": [
        {"name": "machine", "group": "machine", "status": "measured", "why": "", "seconds": 9.0, "result": {
            "gpus": [{"name": "NVIDIA <A100>", "memory": 85_000_000_000}], "cores": 16,
            "packages": {"torch": "2.13.0", "trl": None}, "product": {"side": 8192, "dtype": "bf16", "flops": 2.7e14},
            "copy_bytes_per_second": 1.6e12, "flash": {"flash": 0.001, "mathematics": 0.009}}},
        {"name": "1B cpt", "group": "speed", "status": "measured", "why": "", "seconds": 20.0, "result": {
            "step_seconds": 0.4, "tokens_per_second": 20_480.0, "mfu": 0.457, "memory": 30_000_000_000,
            "held": 33_000_000_000, "losses": [10.4, 10.3],
            "planned": {"memory": 33_500_000_000, "allocated": 31_500_000_000, "checkpoint": 13_200_000_000}}},
        {"name": "1B cpt: bare torch", "group": "speed", "status": "measured", "why": "", "seconds": 20.0, "result": {
            "step_seconds": 0.41, "tokens_per_second": 20_000.0, "mfu": 0.44, "memory": 36_000_000_000,
            "losses": [10.4, 10.3]}},
        {"name": "1B cpt: trace", "group": "memory", "status": "measured", "why": "", "seconds": 20.0,
         "result": {"memory": 30_900_000_000}},
        {"name": "all-reduce", "group": "several GPUs", "status": "measured", "why": "", "seconds": 12.0, "result": {
            "backend": "nccl", "ranks": 2,
            "rows": [{"bytes": 1 << 20, "seconds": 1e-4, "bus_bytes_per_second": 1e10}]}},
        {"name": "1B sft: TRL", "group": "speed", "status": "skipped", "why": "needs trl", "seconds": 0.0,
         "result": {}},
        {"name": "tests, first", "group": "tests", "status": "measured", "why": "", "seconds": 60.0, "result": {
            "passed": ["a", "b"], "failed": [], "not_run": []}},
        {"name": "tests, others", "group": "tests", "status": "failed", "why": "failed: test_c", "seconds": 99.0,
         "result": {"passed": ["e"], "failed": ["test_c[<x>]"], "not_run": ["d: no time was left"]}},
        {"name": "1B cpt with saves", "group": "more", "status": "measured", "why": "", "seconds": 40.0, "result": {
            "save_seconds": 5.0, "checkpoint_bytes": 13_200_000_000}},
        {"name": "halving", "group": "more", "status": "failed", "why": "ended with 1: Error", "seconds": 1.0,
         "result": {}},
    ],
}  # fmt: skip


def test_the_page_shows_rates_ratios_and_what_is_missing() -> None:
    text = page(REPORT)

    for said in ("20,480", "45.7%", "1.024", "1.05", "1.03", "NVIDIA &lt;A100&gt;", "10 GB/s", "test_c[&lt;x&gt;]"):
        assert said in text, said
    for said in ("3 passed", "d: no time was left", "2.64 GB/s", "matrices in bf16 reaches 270 TFLOP/s"):
        assert said in text, said
    assert text.index("ended with 1: Error") < text.index("needs trl")
    assert "<script" not in text
    assert "http:" not in text and "https:" not in text


@pytest.mark.slow
@pytest.mark.parametrize("dark", [False, True])
def test_the_page_is_one_file_and_fits_into_a_window(tmp_path: Path, dark: bool) -> None:
    (tmp_path / "gpu-report.html").write_text(page(REPORT))
    with browser(tmp_path / "profile") as opened:
        opened.look(1100, 900, dark)
        opened.open((tmp_path / "gpu-report.html").as_uri())
        opened.wait_for("document.readyState === 'complete'", "the page")

        assert opened.evaluate("document.documentElement.scrollWidth") <= 1100
        assert opened.evaluate("document.querySelector('rect.ours').getBoundingClientRect().width") > 0
        assert "Memory against plan and trace" in opened.text()
        assert [url for url in opened.requested if not url.startswith("file:")] == []
