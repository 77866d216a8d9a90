"""Perplexities against the Language Model Evaluation Harness, and against loops that know nothing of windows."""

import json
import math
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from jobs.evaluation.loaded_model import LoadedModel
from jobs.evaluation.perplexity import perplexity_means, prepare_perplexity
from jobs.evaluation.report import TaskReport
from jobs.evaluation.windows import DocumentPlaces, windows_of_documents
from launcher.errors import LauncherError
from launcher.recipe.kinds.evaluate import EvaluateRecipe
from launcher.recipe.sections.perplexity_task import PerplexityTask
from tests.support.corpora import make_corpus
from tests.support.training_runs import ASSETS, context_of, make_run_of

MODEL = ASSETS / "stories260k"
LENGTH = 48
TEXTS = [
    "Once upon a time there was a little girl. She had 12 µg/l of naïve protein.",
    "One day, " * 90 + "the patient  went\n\nhome.",
    "Fever",
    "The dose was 5 mg. " * 8,
]


def loaded(dtype: torch.dtype = torch.float64) -> LoadedModel:
    model = AutoModelForCausalLM.from_pretrained(MODEL, dtype=dtype).eval()
    return LoadedModel(model, AutoTokenizer.from_pretrained(MODEL), torch.device("cpu"), dtype)


def write_texts(folder: Path, texts: Sequence[str] = TEXTS) -> None:
    lines = [json.dumps({"text": text}, ensure_ascii=False) for text in texts]
    (folder / "texts.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")


def score(folder: Path, model: LoadedModel, tokens_per_batch: int = 300, **section: Any) -> TaskReport:
    """Work through all batches of a task as a run does."""
    task = {"type": "perplexity", "name": "notes", "length": LENGTH, **section}
    if not {"corpus", "source"} & {*task}:
        task["source"] = {"format": "pile", "files": "texts.jsonl"}
    recipe = {
        "kind": "evaluate",
        "name": "scores",
        "model": {"path": "stories260k"},
        "tasks": [task],
        "tokens_per_batch": tokens_per_batch,
        "resources": {"time": "5min"},
    }
    context = context_of(make_run_of(recipe, folder))
    assert isinstance(context.recipe, EvaluateRecipe)
    (section_,) = context.recipe.tasks
    assert isinstance(section_, PerplexityTask)
    prepared = prepare_perplexity(context, context.recipe, section_, "tasks.0", model)
    rows = [row for members in prepared.batches.members for row in prepared.batches.work(members)]
    return prepared.report(json.loads(json.dumps(sorted(rows, key=lambda row: row["item"]))))


def values(report: TaskReport) -> dict[str, float | None]:
    return {name: score.value for name, score in report.scores.scores.items()}


def loss(model: LoadedModel, ids: Sequence[int], predicted: int) -> float:
    """Negative log-likelihood of the last tokens, from all logits."""
    with torch.no_grad():
        logits = model.model(input_ids=torch.tensor([ids[:-1]])).logits[0]
    chances = logits.double().log_softmax(-1)[torch.arange(len(ids) - 1), torch.tensor(ids[1:])]
    return -float(chances[len(ids) - 1 - predicted :].sum())


def test_scores_follow_from_losses_and_counts(tmp_path: Path) -> None:
    write_texts(tmp_path)
    report = score(tmp_path, loaded())

    items = report.items
    losses, tokens = [item["nll"] for item in items], [item["tokens"] for item in items]
    words = [len(re.split(r"\s+", text)) for text in TEXTS]
    sizes = [len(text.encode("utf-8")) for text in TEXTS]
    assert [item["words"] for item in items] == words
    assert [item["bytes"] for item in items] == sizes
    total = sum(losses)
    assert values(report) == pytest.approx(
        {
            "token_perplexity": math.exp(total / sum(tokens)),
            "word_perplexity": math.exp(total / sum(words)),
            "byte_perplexity": math.exp(total / sum(sizes)),
            "bits_per_byte": total / sum(sizes) / math.log(2),
            "document_perplexity": math.exp(sum(a / b for a, b in zip(losses, tokens, strict=True)) / len(TEXTS)),
        },
        rel=1e-12,
    )
    assert report.scores.settings["windows"] == "lm_eval"
    assert report.scores.settings["length"] == LENGTH


@pytest.mark.parametrize("stride", [None, 48, 17])
def test_windows_of_documents_are_those_of_a_loop_over_tokens(tmp_path: Path, stride: int | None) -> None:
    texts = [TEXTS[0], TEXTS[1][:400], TEXTS[2]]
    write_texts(tmp_path, texts)
    model = loaded()
    report = score(tmp_path, model, windows="documents", stride=stride)

    for text, item in zip(texts, report.items, strict=True):
        ids = [1, *model.tokenizer(text, add_special_tokens=False)["input_ids"]]
        expected, done = 0.0, 1
        while done < len(ids):
            end = min(len(ids), LENGTH + 1 if done == 1 else done + (stride or LENGTH))
            expected += loss(model, ids[max(0, end - 1 - LENGTH) : end], end - done)
            done = end
        assert item["nll"] == pytest.approx(expected, rel=1e-9)
        assert item["tokens"] == len(ids) - 1


def test_each_token_has_the_context_that_a_stride_promises() -> None:
    places = DocumentPlaces([200, 30, 49, 50])
    windows = windows_of_documents(places, 1, 48, 16)

    predicted = [token for window in windows for token in range(window.first, window.end)]
    starts = {start: end for start, end in zip(places.starts, places.starts[1:], strict=False)}
    assert predicted == [token for start, end in starts.items() for token in range(start + 1, end)]
    for window in windows:
        origin = max(start for start in starts if start <= window.start)
        assert window.length <= 48
        assert window.first - window.start >= min(48 - 16, window.first - origin)


def test_plain_windows_run_over_the_ends_of_documents(tmp_path: Path) -> None:
    write_texts(tmp_path)
    model = loaded()
    report = score(tmp_path, model, windows="plain")

    documents = [model.tokenizer(text)["input_ids"] for text in TEXTS]
    assert {ids[0] for ids in documents} == {model.tokenizer.bos_token_id}
    expected = loss_of_stream(model, documents)
    assert [item["nll"] for item in report.items] == pytest.approx(expected, rel=1e-9)
    assert [item["tokens"] for item in report.items] == [len(ids) - 1 for ids in documents]
    assert [item["bytes"] for item in report.items] == [len(text.encode()) for text in TEXTS]


def loss_of_stream(model: LoadedModel, documents: Sequence[Sequence[int]]) -> list[float]:
    """Negative log-likelihood of each document but its first token, all cut together wherever a window ends."""
    stream = [(number, place, token) for number, ids in enumerate(documents) for place, token in enumerate(ids)]
    found, done = [0.0] * len(documents), 1
    while done < len(stream):
        end = min(len(stream), done + LENGTH)
        window = [token for _, _, token in stream[max(0, end - 1 - LENGTH) : end]]
        with torch.no_grad():
            chances = model.model(input_ids=torch.tensor([window[:-1]])).logits[0].double().log_softmax(-1)
        for back in range(end - done):
            number, place, token = stream[end - 1 - back]
            found[number] -= float(chances[-1 - back, token]) if place else 0.0
        done = end
    return found


def test_plain_windows_over_a_corpus_predict_ends_of_documents_and_no_beginnings(tmp_path: Path) -> None:
    corpus_of(tmp_path, TEXTS)
    model = loaded()
    report = score(tmp_path, model, corpus="notes", windows="plain")

    documents = [[1, *model.tokenizer(text, add_special_tokens=False)["input_ids"], 2] for text in TEXTS]
    assert [item["nll"] for item in report.items] == pytest.approx(loss_of_stream(model, documents), rel=1e-9)
    assert [item["tokens"] for item in report.items] == [len(ids) - 1 for ids in documents]


def test_batches_and_number_formats_make_no_difference(tmp_path: Path) -> None:
    write_texts(tmp_path)
    small, large = (score(tmp_path, loaded(), size) for size in (1, 10_000))
    single = score(tmp_path, loaded(torch.float32))

    assert values(small) == pytest.approx(values(large), rel=1e-12)
    assert values(small) == pytest.approx(values(single), rel=1e-5)
    assert small.scores.items_sha256 == large.scores.items_sha256


def corpus_of(folder: Path, texts: Sequence[str], name: str = "notes", tokenizer: bytes | None = None) -> None:
    ids = [AutoTokenizer.from_pretrained(MODEL)(text, add_special_tokens=False)["input_ids"] for text in texts]
    tokens = tokenizer or (MODEL / "tokenizer.json").read_bytes()
    make_corpus(folder / "corpora" / name, [[[1, 2]]], validation=[[*one, 2] for one in ids], tokenizer=tokens)


def test_a_corpus_is_scored_as_its_tokens_were_written(tmp_path: Path) -> None:
    corpus_of(tmp_path, TEXTS)
    model = loaded()
    report = score(tmp_path, model, corpus="notes")

    for text, item in zip(TEXTS, report.items, strict=True):
        ids = [1, *model.tokenizer(text, add_special_tokens=False)["input_ids"], 2]
        assert item["tokens"] == len(ids) - 1
        assert (item["words"], item["bytes"]) == (len(re.split(r"\s+", text)), len(text.encode()))
        if len(ids) <= LENGTH + 1:
            assert item["nll"] == pytest.approx(loss(model, ids, len(ids) - 1), rel=1e-9)


def test_texts_cut_to_their_first_tokens_give_the_mean_of_losses_of_padded_texts(tmp_path: Path) -> None:
    write_texts(tmp_path)
    model = loaded()
    report = score(tmp_path, model, windows="documents", max_tokens=20)

    losses = []
    for text in TEXTS:
        batch = model.tokenizer(text, truncation=True, max_length=20, return_tensors="pt")
        with torch.no_grad():
            losses.append(float(model.model(**batch, labels=batch["input_ids"]).loss))
    assert values(report)["document_perplexity"] == pytest.approx(math.exp(sum(losses) / len(losses)), rel=1e-6)
    assert report.scores.counts["documents cut"] == 3
    assert report.items[1]["bytes"] < len(TEXTS[1].encode())


def test_empty_documents_are_left_out_and_counted(tmp_path: Path) -> None:
    write_texts(tmp_path, ["", TEXTS[0], ""])
    report = score(tmp_path, loaded())
    assert report.scores.counts["empty documents left out"] == 2
    assert report.scores.n == 1

    write_texts(tmp_path, ["", ""])
    with pytest.raises(LauncherError, match=r"tasks\.0: all documents are empty"):
        score(tmp_path, loaded())


def test_logits_that_are_no_numbers_name_the_document(tmp_path: Path) -> None:
    write_texts(tmp_path)
    model = loaded()
    torch.nn.init.constant_(model.model.model.norm.weight, math.nan)

    with pytest.raises(LauncherError, match=r"not numbers for document `texts\.jsonl:\d`"):
        score(tmp_path, model)


def test_a_corpus_that_the_model_cannot_read_is_refused_with_both_names(tmp_path: Path) -> None:
    other = (MODEL / "tokenizer.json").read_text().replace('"▁the"', '"▁xyzzy"')
    corpus_of(tmp_path, TEXTS, "foreign", other.encode())

    with pytest.raises(LauncherError) as caught:
        score(tmp_path, loaded(), corpus="foreign")
    assert "tasks.0.corpus: tokenizer mismatch" in str(caught.value)
    assert str(MODEL) in str(caught.value)
    assert "made with `none`" in str(caught.value)


def test_a_corpus_without_the_split_is_refused(tmp_path: Path) -> None:
    make_corpus(tmp_path / "corpora" / "words", [[[1, 2]]], tokenizer=(MODEL / "tokenizer.json").read_bytes())

    with pytest.raises(LauncherError, match="no documents in `validation`; there are some in `train`"):
        score(tmp_path, loaded(), corpus="words")


def test_windows_longer_than_the_model_are_refused(tmp_path: Path) -> None:
    write_texts(tmp_path)
    with pytest.raises(LauncherError, match=r"tasks\.0\.length: 513 is more than the model's 512 positions"):
        score(tmp_path, loaded(), length=513)
    with pytest.raises(LauncherError, match=r"tasks\.0\.stride: 600 is more"):
        score(tmp_path, loaded(), length=None, windows="documents", stride=600)


def test_documents_of_files_of_one_name_have_ids_of_their_own(tmp_path: Path) -> None:
    for place in ("a", "b"):
        (tmp_path / place).mkdir()
        write_texts(tmp_path / place, TEXTS[:2])
    ids = {
        files: [item["id"] for item in score(tmp_path, loaded(), source={"format": "pile", "files": files}).items]
        for files in ("*/texts.jsonl", "a/texts.jsonl")
    }

    assert ids["*/texts.jsonl"] == [f"{place}/texts.jsonl:{line}" for place in "ab" for line in (1, 2)]
    assert ids["a/texts.jsonl"] == ["texts.jsonl:1", "texts.jsonl:2"]


def test_unreadable_records_are_refused_with_their_place(tmp_path: Path) -> None:
    (tmp_path / "texts.jsonl").write_text('{"text": "Fever"}\n{"txt": "no"}\n')
    with pytest.raises(LauncherError, match=r"1 of 2 records cannot be read(.|\n)*texts\.jsonl:2: has no `text`"):
        score(tmp_path, loaded())


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(("dtype", "rel"), [(torch.float64, 1e-9), (torch.float32, 1e-4)])
def test_scores_are_those_of_the_evaluation_harness(tmp_path: Path, dtype: torch.dtype, rel: float) -> None:
    from lm_eval.api.instance import Instance
    from lm_eval.models.huggingface import HFLM

    write_texts(tmp_path)
    model = loaded(dtype)
    harness = HFLM(
        pretrained=model.model, tokenizer=model.tokenizer, max_length=LENGTH, batch_size=3, softmax_dtype=dtype
    )
    requests = [Instance("loglikelihood_rolling", {}, (text,), number) for number, text in enumerate(TEXTS)]
    likelihoods = harness.loglikelihood_rolling(requests, disable_tqdm=True)

    report = score(tmp_path, model)

    assert [-item["nll"] for item in report.items] == pytest.approx(likelihoods, rel=rel)
    total = -sum(likelihoods)
    words = sum(len(re.split(r"\s+", text)) for text in TEXTS)
    assert values(report)["word_perplexity"] == pytest.approx(math.exp(total / words), rel=rel * 10)


def test_documents_without_a_predicted_token_count_for_nothing_and_groups_are_clusters() -> None:
    rows = [(12.0, 4.0, "0"), (0.0, 0.0, "0"), (6.0, 3.0, ""), (10.0, 4.0, "0")]
    items = [{"nll": nll, "tokens": n, "words": 2.0, "bytes": 9.0, "group": group} for nll, n, group in rows]

    means = perplexity_means(items)

    assert means["token_perplexity"].value == pytest.approx(28 / 11)
    assert means["document_perplexity"].value == pytest.approx((3 + 2 + 2.5) / 3)
    assert (means["token_perplexity"].clusters, means["document_perplexity"].clusters) == (2, 2)
