"""kind: generate - texts for many prompts, whatever interrupts the work and however many share it."""

import json
from contextlib import contextmanager

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from jobs.kinds.generate import main
from launcher.artifacts.generations import Generations
from launcher.errors import LauncherError
from launcher.run.ledger import read_attempts, read_json_lines
from tests.support.generation_runs import generation, share_of, texts_of, write_prompts, write_records
from tests.support.merge_runs import BASE, lora, make_adapter
from tests.support.stops import stopped_after

pytestmark = pytest.mark.slow
SAMPLED = {"max_new_tokens": 12, "temperature": 0.9, "top_k": 40, "top_p": 0.95, "repetition_penalty": 1.2}


@contextmanager
def refused(match, kind=LauncherError):
    """Something is refused; the process group that a failing rank leaves to the end of its process is removed."""
    with pytest.raises(kind, match=match) as fault:
        yield fault
    torch.distributed.destroy_process_group()


def published(context):
    return (context.run.outputs / "generations.jsonl").read_bytes()


def texts(folder, **changes):
    """Generate, with the prompts that lie in a folder; return the lines."""
    context = generation(folder, **changes)
    main(context)
    return texts_of(context)


@pytest.fixture(scope="module", params=[{"max_new_tokens": 12}, SAMPLED], ids=["greedy", "sampled"])
def whole(request, tmp_path_factory):
    """A run that nothing interrupted, and its decoding."""
    folder = tmp_path_factory.mktemp("whole")
    write_prompts(folder)
    context = generation(folder, decoding=request.param)
    main(context)
    return context, request.param


def again(tmp_path, whole):
    """Another run of the same prompts."""
    write_prompts(tmp_path)
    return generation(tmp_path, decoding=whole[1])


def test_greedy_texts_are_those_of_plain_transformers(tmp_path):
    prompts = write_prompts(tmp_path)
    model = AutoModelForCausalLM.from_pretrained(BASE, dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(BASE)

    found = texts(tmp_path)

    assert [line["id"] for line in found] == [f"p{number}" for number in range(24)]
    for line, record in zip(found, read_json_lines(prompts), strict=True):
        ids = torch.tensor([tokenizer.encode(record["prompt"])])
        made = model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=12, do_sample=False)
        made = made[0, ids.shape[1] :]
        assert line["text"] == tokenizer.decode(made, skip_special_tokens=True)
        assert (line["tokens"], line["finish"]) == (len(made), "stop" if made[-1] == 2 else "length")


@pytest.mark.parametrize("count", [3, 7])
def test_any_number_of_array_elements_writes_the_same_bytes(tmp_path, whole, count):
    context = again(tmp_path, whole)

    for index in reversed(range(count)):
        main(share_of(context, index, count))
        assert not context.run.outputs.exists()
    main(context)

    assert published(context) == published(whole[0])


@pytest.mark.parametrize("looks", [0, 2])
def test_a_stop_at_any_batch_changes_no_byte(tmp_path, whole, looks):
    context = again(tmp_path, whole)

    with stopped_after(looks):
        main(context)
    done = [len(read_json_lines(path)) for path in context.run.batches.glob("*/*.jsonl")]
    [stopped] = read_attempts(context.run.ledger)
    main(context)

    assert len(done) == looks
    assert (stopped.first_step, stopped.last_step, stopped.total_steps) == (0, sum(done), 24)
    [resumed] = read_attempts(context.run.ledger)
    assert (resumed.first_step, resumed.last_step) == (sum(done), 24)
    assert published(context) == published(whole[0])
    assert [attempt.reason for attempt in read_attempts(context.run.ledger)][-1] == "finished"


def test_finished_batches_are_not_made_again(tmp_path, monkeypatch):
    write_prompts(tmp_path)
    context = generation(tmp_path)
    main(context)
    (context.run.outputs / "generations.json").unlink()
    monkeypatch.setattr("jobs.evaluation.generator.Generator.generate", lambda *_: 1 / 0)

    main(context)

    assert (context.run.outputs / "generations.json").is_file()


def test_how_prompts_are_batched_changes_no_text_in_fp32(tmp_path, whole):
    write_prompts(tmp_path)

    alone = generation(tmp_path, tokens_per_batch=1, decoding=whole[1])
    main(alone)

    assert published(alone) == published(whole[0])
    assert len(list(alone.run.batches.glob("*/*.jsonl"))) == 24


def test_other_prompts_in_the_file_change_no_sampled_text(tmp_path):
    records = read_json_lines(write_prompts(tmp_path))
    write_records(tmp_path / "some" / "prompts.jsonl", records[5:9])
    every = texts(tmp_path, decoding=SAMPLED)

    some = texts(tmp_path / "some", decoding=SAMPLED)

    assert some == every[5:9]
    assert texts(tmp_path / "some", decoding=SAMPLED, seed=7, name="other") == some  # published already


def test_another_seed_draws_other_texts(tmp_path):
    write_prompts(tmp_path / "one", 6)
    write_prompts(tmp_path / "two", 6)

    one, two = (texts(tmp_path / name, decoding=SAMPLED, seed=seed) for name, seed in (("one", 1), ("two", 2)))

    assert all(line["text"] != other["text"] for line, other in zip(one, two, strict=True))


@pytest.mark.parametrize("quantization", [None, {"bits": 4}], ids=["merged", "beside 4 bits"])
def test_an_adapter_is_applied(tmp_path, quantization):
    write_prompts(tmp_path, 4)
    make_adapter(tmp_path / "adapter", lora())
    section = {"path": "stories260k", "dtype": "fp32", "quantization": quantization}
    plain = texts(tmp_path / "plain", data={"files": "../prompts.jsonl", "format": "prompt"}, model=section)

    adapted = texts(tmp_path, model=section | {"adapters": [{"path": "./adapter"}]})

    assert [line["text"] for line in adapted] != [line["text"] for line in plain]
    made = json.loads((tmp_path / "run" / "outputs" / "generations.json").read_text())
    assert [one["path"] for one in made["model"]["adapters"]] == ["./adapter"]


def test_what_was_made_is_described(tmp_path, capsys):
    write_prompts(tmp_path)
    context = generation(tmp_path, keep_prompts=True)

    main(context)

    lines = texts_of(context)
    made = Generations.model_validate_json((context.run.outputs / "generations.json").read_bytes())
    assert (made.items, made.tokens) == (24, sum(line["tokens"] for line in lines))
    assert sum(made.finish.values()) == 24
    assert made.files[0].path.endswith("prompts.jsonl")
    assert lines[3]["prompt"] == read_json_lines(tmp_path / "prompts.jsonl")[3]["prompt"]
    assert f"24 texts, {made.tokens:,} tokens" in capsys.readouterr().out
    rows = read_json_lines(context.run.metrics)
    assert rows[-1]["step"] == 24
    assert rows[-1]["tokens_per_second"] > 0


def test_conversations_are_continued_after_their_last_question(tmp_path):
    turns = [{"role": "user", "content": "Why?"}, {"role": "assistant", "content": "So."}]
    question = {"role": "user", "content": "And who?"}
    answer = {"role": "assistant", "content": "Planted"}
    write_records(tmp_path / "a.jsonl", [{"id": "a", "messages": [*turns, question]}])
    write_records(tmp_path / "b.jsonl", [{"id": "a", "messages": [*turns, question, answer]}])
    chat = {"template": "alpaca", "system_prompt": "Be kind."}

    found = []
    for name in "ab":
        context = generation(
            tmp_path / name, data={"files": f"../{name}.jsonl", "format": "messages", "chat": chat}, keep_prompts=True
        )
        main(context)
        found.append((texts_of(context), json.loads((context.run.outputs / "generations.json").read_text())["counts"]))

    assert found[0][0] == found[1][0]
    assert [counts for _, counts in found] == [{}, {"answers left out": 1}]


def test_questions_are_worded_as_in_an_evaluation(tmp_path):
    data = {"files": "./assets/medqa_40.jsonl", "format": "medqa", "limit": 5, "prompt": "lm_eval"}
    (tmp_path / "assets").symlink_to(BASE.parent)

    found = texts(tmp_path, data=data, keep_prompts=True)

    assert len(found) == 5
    assert all(line["prompt"].startswith("Question: ") and line["prompt"].endswith("Answer:") for line in found)


@pytest.mark.parametrize(
    ("record", "reason"),
    [
        ({"prompt": " "}, "its prompt is empty"),
        ({"prompt": None}, "its `prompt` is null"),
        ({"text": "Planted"}, "has no `prompt`"),
        ({"prompt": "long " * 600}, r"its prompt has \d+ tokens; with 12 after it they are more than the model's 512"),
    ],
)
def test_prompts_that_cannot_be_used_are_named_and_counted(tmp_path, record, reason):
    write_records(tmp_path / "prompts.jsonl", [{"prompt": "fine"}, record | {"secret": "Planted"}])

    with refused(rf"1 of 2 records cannot be read(.|\n)*prompts.jsonl:2: {reason}") as fault:
        main(generation(tmp_path, too_long="refuse"))
    context = generation(tmp_path, too_long="refuse", max_bad_fraction=0.5)
    main(context)

    assert "Planted" not in str(fault.value)
    assert [line["id"] for line in texts_of(context)] == ["prompts.jsonl:1"]
    assert json.loads((context.run.outputs / "generations.json").read_text())["counts"] == {"unusable records": 1}


def test_a_prompt_that_is_too_long_can_lose_its_start(tmp_path):
    write_records(tmp_path / "prompts.jsonl", [{"prompt": "Once upon a time " * 200}])
    context = generation(tmp_path)

    main(context)

    assert json.loads((context.run.outputs / "generations.json").read_text())["counts"] == {
        "prompts cut at their start": 1
    }


def test_ids_that_occur_twice_are_refused(tmp_path):
    write_records(tmp_path / "prompts.jsonl", [{"id": 1, "prompt": "a"}, {"id": "1", "prompt": "b"}])

    with refused("1 ids occur more than once, first `1`"):
        main(generation(tmp_path))


def test_prompts_of_files_of_one_name_have_ids_of_their_own(tmp_path):
    for place in ("a", "b"):
        write_records(tmp_path / place / "q.jsonl", [{"prompt": "Once upon a time"}])

    found = texts(tmp_path, data={"files": "./[ab]/q.jsonl", "format": "prompt"})

    assert [one["id"] for one in found] == ["a/q.jsonl:1", "b/q.jsonl:1"]


def test_a_stop_string_ends_a_text_even_at_its_start(tmp_path):
    write_prompts(tmp_path, 4)
    plain = texts(tmp_path / "plain", data={"files": "../prompts.jsonl", "format": "prompt"})
    start = plain[0]["text"][:2]

    found = texts(tmp_path, decoding={"max_new_tokens": 12, "stop": [start, "never there"]})

    assert (found[0]["text"], found[0]["finish"]) == ("", "stop")
    assert found[0]["tokens"] <= 2
    for line, other in zip(found, plain, strict=True):
        assert line["text"] == other["text"].partition(start)[0]


def test_one_token_is_a_text(tmp_path):
    write_prompts(tmp_path, 3)

    assert [line["tokens"] for line in texts(tmp_path, decoding={"max_new_tokens": 1})] == [1, 1, 1]


def test_more_tokens_than_positions_are_refused(tmp_path):
    write_prompts(tmp_path, 3)

    with refused(r"max_new_tokens: 512 tokens leave no room .* 512 positions"):
        main(generation(tmp_path, decoding={"max_new_tokens": 512}))


def test_logits_that_are_no_numbers_end_the_run(tmp_path):
    write_prompts(tmp_path, 3)
    model = AutoModelForCausalLM.from_pretrained(BASE, dtype=torch.float32)
    model.model.norm.weight.data[0] = float("nan")
    model.save_pretrained(tmp_path / "models" / "broken")
    AutoTokenizer.from_pretrained(BASE).save_pretrained(tmp_path / "models" / "broken")

    with refused("logits are not numbers for the prompt `p"):
        main(generation(tmp_path, tmp_path / "models", model={"path": "broken", "dtype": "fp32"}))


def test_what_the_publisher_recommends_for_generation_is_not_used(tmp_path):
    write_prompts(tmp_path, 3)
    folder = tmp_path / "models" / "stories260k"
    AutoModelForCausalLM.from_pretrained(BASE, dtype=torch.float32).save_pretrained(folder)
    AutoTokenizer.from_pretrained(BASE).save_pretrained(folder)
    recommended = {"eos_token_id": 2, "repetition_penalty": 1.5, "do_sample": True, "suppress_tokens": [3, 4, 5, 400]}
    (folder / "generation_config.json").write_text(json.dumps(recommended))
    data = {"files": "../prompts.jsonl", "format": "prompt"}

    plain, changed = (
        texts(tmp_path / name, data=data, **more) for name, more in (("a", {}), ("b", {"models": tmp_path / "models"}))
    )

    assert plain == changed


def test_nothing_of_credentialed_text_is_told(tmp_path, capsys):
    write_records(tmp_path / "prompts.jsonl", [{"prompt": "Quixzotl lives in Zanthropy."}])
    context = generation(tmp_path, data_use="credentialed")

    main(context)

    told = capsys.readouterr()
    everything = b"".join(path.read_bytes() for path in context.run.root.rglob("*") if path.is_file())
    assert "Quix" not in told.out + told.err
    assert texts_of(context)[0]["text"] not in told.out + told.err
    assert b"Quix" not in everything
