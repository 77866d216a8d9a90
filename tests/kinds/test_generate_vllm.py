"""`engine: vllm`: a real process in another Python, in which a package of our own stands in for vLLM."""

import json
import shutil

import pytest

from jobs.kinds.generate import main
from launcher.errors import LauncherError
from launcher.run.ledger import read_attempts
from launcher.run.paths import FINISHED, NEVER_RESTART
from tests.kinds.test_generate import SAMPLED, refused
from tests.support.generation_runs import generate_recipe, generation, texts_of, write_prompts
from tests.support.merge_runs import lora, make_adapter
from tests.support.stops import stopped_after
from tests.support.training_runs import make_run_of, start, train
from tests.support.vllm_sites import VllmSite, make_python
from tests.support.waiting import wait_for

pytestmark = pytest.mark.slow
SMALL = {"tokens_per_batch": 200}


@pytest.fixture
def site(tmp_path, monkeypatch):
    return VllmSite(tmp_path, monkeypatch)


def by_transformers(folder, **changes):
    """The lines that transformers would write, for the prompts of a folder."""
    context = generation(folder / "other", data={"files": "../prompts.jsonl", "format": "prompt"}, **changes)
    main(context)
    return texts_of(context)


def name_engine(run, site):
    """Name the site's Python in the profile of a run."""
    record = json.loads(run.record.read_text())
    record["cluster"]["engines"] = {"vllm": str(site.python)}
    run.record.write_text(json.dumps(record))


def made_by(context):
    return json.loads((context.run.outputs / "generations.json").read_text())


def test_greedy_texts_are_those_of_transformers_whatever_vllm_prints(tmp_path, site, monkeypatch):
    write_prompts(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setenv("RANK", "0")
    context = site.generation(tmp_path)

    main(context)

    assert texts_of(context) == by_transformers(tmp_path)
    made = made_by(context)
    assert (made["engine"], made["versions"]["vllm"], made["items"]) == ("vllm", "0.33.0", 24)
    (load,) = site.notes("load")
    assert not load["is_beside_worker"]
    assert load["environment"] == {
        "PYTHONPATH": site.python_path,
        "RANK": None,
        "CUDA_VISIBLE_DEVICES": None,
        "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
        "VLLM_NO_USAGE_STATS": "1",
    }
    assert (load["load"]["dtype"], load["load"]["generation_config"]) == ("float32", "vllm")
    assert len({seed for batch in site.notes("batch") for seed in batch["seeds"]}) == 24
    assert not site.is_running()


def test_a_stopped_run_goes_on_with_the_batches_that_are_missing(tmp_path, site):
    write_prompts(tmp_path)
    context = site.generation(tmp_path)

    with stopped_after(2):
        main(context)
    done = len(site.notes("batch"))
    main(context)

    assert done == 2
    assert len(site.notes("load")) == 2
    assert sum(one["batch"] for one in site.notes("batch")) == 24
    assert [attempt.reason for attempt in read_attempts(context.run.ledger)][-1] == "finished"
    assert texts_of(context) == by_transformers(tmp_path)
    main(context)  # nothing is left to do, so that vLLM is not started
    assert len(site.notes("load")) == 2


def test_an_adapter_is_passed_on(tmp_path, site):
    write_prompts(tmp_path, 4)
    make_adapter(tmp_path / "adapter", lora(r=12))
    section = {"path": "stories260k", "dtype": "fp32"}
    context = site.generation(tmp_path, model=section | {"adapters": [{"path": "./adapter"}]})

    main(context)

    (load,) = site.notes("load")
    assert (load["load"]["enable_lora"], load["load"]["max_lora_rank"]) == (True, 16)
    assert texts_of(context) == by_transformers(tmp_path, model=section | {"adapters": [{"path": "../adapter"}]})
    assert made_by(context)["model"]["adapters"][0]["path"] == "./adapter"


def test_stop_strings_and_penalties_work_as_in_transformers(tmp_path, site):
    write_prompts(tmp_path, 6)
    decoding = {"max_new_tokens": 24, "stop": ["a", "never there"], "repetition_penalty": 1.3}
    context = site.generation(tmp_path, decoding=decoding)

    main(context)

    found = texts_of(context)
    assert found == by_transformers(tmp_path, decoding=decoding)
    assert all("a" not in line["text"] for line in found)
    assert any(line["finish"] == "stop" and line["text"] for line in found)


def test_sampling_is_asked_for_as_the_recipe_says(tmp_path, site):
    write_prompts(tmp_path, 3)
    context = site.generation(tmp_path, decoding=SAMPLED)

    main(context)

    (batch,) = site.notes("batch")
    assert {name: batch["sampling"][name] for name in SAMPLED if name != "max_new_tokens"} == {
        name: value for name, value in SAMPLED.items() if name != "max_new_tokens"
    }
    assert all(line["tokens"] == 12 or line["finish"] == "stop" for line in texts_of(context))
    assert [line["text"] for line in texts_of(context)] != [line["text"] for line in by_transformers(tmp_path)]


@pytest.mark.parametrize(
    ("fails", "kind", "said", "more"),
    [
        ("no model", LauncherError, r"engine: vLLM refuses to work \(ValueError", r": .*Planted.* not supported"),
        (
            *("little memory", LauncherError, r"engine: vLLM refuses to work \(ValueError"),
            r": .*Planted\); write a smaller `decoding.max_new_tokens`, or name GPUs with more memory",
        ),
        ("refusal", LauncherError, r"engine: vLLM refuses to work \(VLLMValidationError", ": the prompt .* Planted"),
        ("memory taken 0.1", RuntimeError, r"vLLM finds too little free memory on its GPU \(ValueError", ".*Planted"),
        ("no memory", RuntimeError, r"vLLM failed \(RuntimeError", ": CUDA out of memory: Planted"),
        ("error", RuntimeError, r"vLLM failed \(RuntimeError", r": EngineCore(.|\n)*\n  Processed prompts: Planted"),
        ("end", RuntimeError, r"vLLM's process ended \(9\)", r"\n(.|\n)*  Processed prompts: Planted"),
        ("abort", RuntimeError, "vLLM ended a text with `abort`", ""),
    ],
)
def test_a_failure_is_told_without_credentialed_text(site, monkeypatch, fails, kind, said, more):
    monkeypatch.setenv("FAKE_VLLM_FAILS", fails)

    for data_use, pattern in (("open", f"^{said}{more}"), ("credentialed", f"^{said}")):
        folder = site.python.parent / data_use
        write_prompts(folder, 2)
        with refused(pattern, kind) as fault:
            main(site.generation(folder, data_use=data_use))
        assert ("Planted" in str(fault.value)) == (data_use == "open" and bool(more))

    assert not site.is_running()


def test_where_others_use_the_memory_vllm_gets_less_of_it(tmp_path, site, monkeypatch, capsys):
    monkeypatch.setenv("FAKE_VLLM_FAILS", "memory taken 0.75")
    write_prompts(tmp_path, 2)
    context = site.generation(tmp_path)

    main(context)

    assert [one["load"]["gpu_memory_utilization"] for one in site.notes("load")] == [0.9, 0.8, 0.7]
    assert "vLLM is started again with 70% of it" in capsys.readouterr().out
    assert len(texts_of(context)) == 2
    assert not site.is_running()


def test_a_process_that_ends_after_a_request_to_stop_is_no_failure(tmp_path, site, monkeypatch):
    monkeypatch.setenv("FAKE_VLLM_FAILS", "end")
    write_prompts(tmp_path, 2)
    context = site.generation(tmp_path)

    with stopped_after(1):
        main(context)

    assert len(site.notes("batch")) == 1
    assert not list(context.run.batches.glob("*/*.jsonl"))


@pytest.mark.parametrize(
    ("engines", "said"),
    [
        ({}, r"engine: the profile names no Python that has vllm; write `engines: \{vllm: "),
        (
            {"vllm": "/nowhere/python"},
            "engine: `/nowhere/python`, which the profile names as `engines.vllm`, is no prog",
        ),
        ({"vllm": "EMPTY"}, r"engine: `.*python` cannot run vLLM \(.*vllm\); install vLLM there"),
    ],
)
def test_without_a_python_that_has_vllm_there_is_no_run(tmp_path, engines, said):
    write_prompts(tmp_path, 2)
    context = generation(tmp_path, engine="vllm")
    empty = str(make_python(tmp_path / "empty", has_vllm=False))
    context.record.cluster["engines"] = {name: empty if path == "EMPTY" else path for name, path in engines.items()}

    with refused(said):
        main(context)


def test_an_adapter_that_vllm_cannot_apply_is_refused(tmp_path, site):
    write_prompts(tmp_path, 2)
    make_adapter(tmp_path / "dora", lora(use_dora=True))
    section = {"path": "stories260k", "dtype": "fp32", "adapters": [{"path": "./dora"}]}

    with refused(r"`dora` scales weights \(DoRA\), which vllm does not apply; merge it into the model first"):
        main(site.generation(tmp_path, model=section))


def test_each_rank_has_a_process_of_its_own(tmp_path, site):
    write_prompts(tmp_path, 12)
    run = make_run_of(generate_recipe(engine="vllm", **SMALL), tmp_path)
    missing = train(run)
    name_engine(run, site)

    attempt = train(run, 2, attempt=1)

    assert missing.exit_codes == [NEVER_RESTART]
    assert attempt.exit_codes == [FINISHED] * 2
    assert len({one["pid"] for one in site.notes("load")}) == 2
    lines = [json.loads(line) for line in (run.outputs / "generations.jsonl").read_text().splitlines()]
    assert lines == by_transformers(tmp_path)


@pytest.mark.skipif(not shutil.which("setpriv"), reason="the process ends with its batch where setpriv is missing")
def test_a_rank_that_is_killed_leaves_no_process(tmp_path, site, monkeypatch):
    monkeypatch.setenv("FAKE_VLLM_FAILS", "wait")
    write_prompts(tmp_path, 2)
    run = make_run_of(generate_recipe(engine="vllm"), tmp_path)
    name_engine(run, site)
    attempt = start(run)
    wait_for(lambda: site.notes("batch"), "a batch")

    attempt.kill()
    attempt.wait()

    wait_for(lambda: not site.is_running(), "the end of vLLM's process")
