"""Labelled notes: recipes, tables, windows and samples."""

import gzip
import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from sklearn.utils.class_weight import compute_class_weight
from torch.nn import functional
from transformers import AutoTokenizer

from jobs.data.labelled.notes import read_notes
from jobs.data.labelled.samples import LabelledWindows, NoteCollator, TrainingSamples, pooled
from jobs.data.labelled.tables import Table, class_counts, read_classes, read_table
from jobs.data.labelled.windows import cut, note_encoder
from jobs.models.classifier import ClassificationLoss, balanced_weights
from launcher.errors import LauncherError
from launcher.recipe import ClassifyRecipe
from launcher.recipe.kinds.classify import LOWER_IS_BETTER, METRICS
from launcher.recipe.sections.labelled_notes import CORE_TASKS, CoreNotes, CsvNotes
from tests.support.labelled_runs import classify_recipe, invented_notes, make_classify_run, write_table
from tests.support.shared_data import shared_data
from tests.support.training_runs import ASSETS, context_of, make_run_of


def recipe(labels: str = "binary", **changes: Any) -> ClassifyRecipe:
    return ClassifyRecipe.model_validate_json(json.dumps(classify_recipe(labels, **changes)))


def complaints(labels: str = "binary", **changes: Any) -> str:
    with pytest.raises(ValidationError) as caught:
        recipe(labels, **changes)
    return str(caught.value)


@pytest.mark.parametrize(
    ("labels", "metric", "nearest"),
    [
        ("binary", "eval_auprc", "auprc"),
        ("multiclass", "f1", "micro_f1"),
        ("multilabel", "accuracy", ""),
        ("multilabel", "val_roc_auc", ""),
    ],
)
def test_a_metric_that_the_labels_do_not_have_is_refused_with_those_they_have_nearest_first(
    labels: Any, metric: str, nearest: str
) -> None:
    said = complaints(labels, evaluation={"metric": metric})

    assert f"evaluation.metric: `{metric}` is not a metric of {labels} labels" in said
    assert all(f"`{name}`" in said for name in METRICS[labels])
    assert f"write one of `{nearest}" in said


def test_the_direction_follows_from_the_metric() -> None:
    assert recipe(evaluation={"metric": "log_loss"}).evaluation.is_lower_better
    assert not recipe(evaluation={"metric": "auroc"}).evaluation.is_lower_better
    assert {name for names in METRICS.values() for name in names} >= LOWER_IS_BETTER


def test_what_contradicts_itself_is_refused() -> None:
    assert "class_weights: `balanced` needs notes with one label" in complaints("multilabel", class_weights="balanced")
    assert "schedule.length: `10 tokens` depends on padding" in complaints(schedule={"length": "10 tokens"})
    assert "evaluation.interval: `10 tokens` depends on padding" in complaints(evaluation={"interval": "10 tokens"})
    assert "pooling: belongs to `long_notes: chunks`" in complaints(data={"pooling": "max"})
    assert "classes: `binary` needs two, and there are 3" in complaints(data={"classes": ["a", "b", "c"]})
    assert "classes: `a` is listed twice" in complaints(data={"classes": ["a", "a"]})
    assert "name a `class_file`; write one of the two" in complaints(data={"class_file": "codes.txt"})
    assert "is a path that only one site has" in complaints(data={"train": "/data/train.csv"})


def test_tables_of_mimic_need_a_recipe_that_says_so() -> None:
    data = {"format": "core", "task": "mor", "folder": "core"}
    changed = classify_recipe() | {"data": data}

    with pytest.raises(ValidationError, match=r"data\.format: CORe's tables are MIMIC"):
        ClassifyRecipe.model_validate_json(json.dumps(changed))


@pytest.mark.parametrize("method", ["prompt", "p_tuning", "adaption_prompt"])
def test_adapters_that_have_no_way_to_a_head_are_refused(method: str) -> None:
    assert f"adapter.method: `{method}` does not work here" in complaints(adapter={"method": method})
    assert recipe(adapter={"method": "prefix"}).adapter


def core(task: str, folder: str = ".") -> CoreNotes:
    return CoreNotes.model_validate({"format": "core", "task": task, "folder": folder})


def csv_notes(labels: str = "binary", **changes: Any) -> CsvNotes:
    data = recipe(labels, data=changes).data
    assert isinstance(data, CsvNotes)
    return data


@pytest.mark.parametrize("task", CORE_TASKS)
def test_the_sample_of_each_core_task_is_read(task: str) -> None:
    folder, data = shared_data("clinical/outcome_core_like"), core(task, "core")
    locate = {pattern: str(folder / Path(pattern).name) for pattern in [*data.files.values(), data.class_file or ""]}

    classes = read_classes(data, locate.__getitem__)
    table = read_table(locate[data.files["validation"]], data, classes)

    sizes = {"los": (24, 4), "mor": (39, 2), "pmv": (39, 2), "diag": (37, 20), "proc": (19, 9)}
    assert (len(table), len(classes)) == sizes[task]
    assert all(note.isdigit() for note in table.ids)
    if data.labels == "multilabel":
        assert table.labels.shape == (len(table), len(classes))
        assert table.labels.any(axis=1).all()


def test_a_table_is_read_with_its_lines_commas_quotes_and_compression(tmp_path: Path) -> None:
    rows = [("1", 'He said "no", twice\n\nand left', "0"), ("2", "fine", " 1 ")]
    plain = write_table(tmp_path / "notes.csv", rows)
    (tmp_path / "notes.csv.gz").write_bytes(gzip.compress(plain.read_bytes()))

    for path in (plain, tmp_path / "notes.csv.gz"):
        table = read_table(str(path), csv_notes(), ("0", "1"))

        assert (table.ids, table.texts) == (["1", "2"], ['He said "no", twice\n\nand left', "fine"])
        assert table.labels.tolist() == [0, 1]
        assert set(table.sources) == {str(path)}


def test_files_of_one_name_keep_their_checksums(tmp_path: Path) -> None:
    paths = []
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        paths.append(write_table(tmp_path / name / "notes.csv", [(f"{name}1", name, "0"), (f"{name}2", name, "1")]))

    table = read_table(str(tmp_path / "*" / "notes.csv"), csv_notes(), ("0", "1"))

    assert table.sources == {str(path): hashlib.sha256(path.read_bytes()).hexdigest() for path in paths}


def test_notes_of_a_patient_belong_together_where_the_tables_say_whose_they_are(tmp_path: Path) -> None:
    (tmp_path / "MP_IN_adm_val.csv").write_text("subject_id,id,text,hospital_expire_flag\n7,1,a,0\n8,2,b,1\n7,3,c,1\n")
    (tmp_path / "MP_IN_adm_test.csv").write_text("id,text,hospital_expire_flag\n1,a,0\n2,b,1\n")

    told, untold = (
        read_table(str(tmp_path / f"MP_IN_adm_{one}.csv"), core("mor"), ("0", "1")) for one in ("val", "test")
    )

    assert (told.unit_column, told.units, told.ids) == ("SUBJECT_ID", ["7", "8", "7"], ["1", "2", "3"])
    assert (untold.unit_column, untold.units) == ("id", untold.ids)


def test_the_log_says_if_admissions_are_taken_for_patients(tmp_path: Path) -> None:
    shutil.copytree(ASSETS / "core_layout", tmp_path / "core")
    data = {"format": "core", "task": "mor", "folder": "core"}
    context = context_of(make_run_of(classify_recipe() | {"data": data, "data_use": "credentialed"}, tmp_path))
    assert isinstance(context.recipe, ClassifyRecipe)

    before = read_notes(context, context.recipe).describe()
    for path in (tmp_path / "core").glob("MP_IN_adm_*.csv"):
        path.write_text(path.read_text().replace('"id"', '"SUBJECT_ID","id"').replace('\n"20', '\n"7","20'))
    after = read_notes(context, context.recipe).describe()

    said = "no column `SUBJECT_ID`: intervals treat admissions of one patient as independent"
    assert (said in before, said in after) == (True, False)


@pytest.mark.parametrize(
    ("header", "train", "test", "shared"),
    [
        ("id", [1, 2, 3], [3, 4, 1], {"admissions": 2}),
        ("id", [1, 2, 3], [4, 5, 6], {"admissions": 0}),
        ("SUBJECT_ID,id", ["7,1", "7,2", "8,3"], ["7,4", "9,5", "8,6"], {"patients": 2}),
    ],
)
def test_what_stands_in_train_and_test_is_counted_and_warned_about(
    tmp_path: Path, header: str, train: list[Any], test: list[Any], shared: dict[str, int]
) -> None:
    shutil.copytree(ASSETS / "core_layout", tmp_path / "core")
    for split, ids in {"train": train, "val": [f"{10 + n},{10 + n}" for n in range(2)], "test": test}.items():
        wanted = header.count(",") + 1
        rows = [f"{','.join(str(unit).split(',')[:wanted])},a note,{n % 2}" for n, unit in enumerate(ids)]
        content = "\n".join([f"{header},text,hospital_expire_flag", *rows, ""])
        (tmp_path / "core" / f"MP_IN_adm_{split}.csv").write_text(content)
    data = {"format": "core", "task": "mor", "folder": "core"}
    context = context_of(make_run_of(classify_recipe() | {"data": data, "data_use": "credentialed"}, tmp_path))
    assert isinstance(context.recipe, ClassifyRecipe)

    notes = read_notes(context, context.recipe)

    [(what, count)] = shared.items()
    assert notes.facts()["shared_with_training"] == {"validation": {what: 0}, "test": shared}
    warning = f"warning: {count} {what} of test are in train as well"
    assert (warning in notes.describe()) == (count > 0)
    assert "of validation are in train" not in notes.describe()


def test_row_numbers_in_two_tables_are_not_taken_for_the_same_note(tmp_path: Path) -> None:
    run = make_classify_run(tmp_path)
    rows = [("0", "in both", "0"), ("1", "one", "1"), ("2", "two", "0")]
    write_table(tmp_path / "binary-train.csv", rows)
    write_table(tmp_path / "binary-validation.csv", [("b7", "seven", "0"), ("2", "two", "1")])
    write_table(tmp_path / "binary-test.csv", [("0", "in both", "0"), ("1", "another", "1")])
    context = context_of(run)
    assert isinstance(context.recipe, ClassifyRecipe)

    notes = read_notes(context, context.recipe)

    assert notes.facts()["shared_with_training"] == {"validation": {"notes": 1}, "test": {"notes": 1}}
    assert "warning: 1 notes of test are in train as well" in notes.describe()


def test_notes_of_training_are_found_whatever_rows_they_have(tmp_path: Path) -> None:
    run = make_classify_run(tmp_path)
    notes = [(f"note {number}", str(number % 2)) for number in range(90)]
    write_table(tmp_path / "binary-train.csv", [(str(row), *one) for row, one in enumerate(notes[:80])])
    write_table(tmp_path / "binary-validation.csv", [(str(row), *one) for row, one in enumerate(notes[30:50])])
    write_table(tmp_path / "binary-test.csv", [(str(row), *one) for row, one in enumerate([*notes[80:], notes[7]])])
    context = context_of(run)
    assert isinstance(context.recipe, ClassifyRecipe)

    found = read_notes(context, context.recipe)

    assert found.facts()["shared_with_training"] == {"validation": {"notes": 20}, "test": {"notes": 1}}
    assert "warning: 20 notes of validation are in train as well" in found.describe()


@pytest.mark.parametrize(
    ("ids", "are_numbers"),
    [
        ("0 1 2", True),
        ("1 2 3", True),
        ("0 1 2 0 1", True),
        ("1 2 1 2 3 1 2", True),
        ("0", True),
        ("0 1 0 2", False),
        ("2 3", False),
        ("1 1 1", False),
        ("1 1 2 3", False),
        ("1 2 2 3", False),
        ("0 1 1 2", False),
        ("00 01", False),
        ("p0 p1", False),
    ],
)
def test_row_numbers_count_on_and_may_begin_again_where_tables_were_joined(ids: str, are_numbers: bool) -> None:
    assert Table(ids=ids.split()).has_row_numbers is are_numbers


def test_joined_tables_that_number_their_rows_share_no_note_because_of_that(tmp_path: Path) -> None:
    run = make_classify_run(tmp_path)
    rows = [(str(number % 3), f"note {number}", str(number % 2)) for number in range(18)]
    for split, its in (("train", rows[:6]), ("validation", rows[6:12]), ("test", rows[12:])):
        write_table(tmp_path / f"binary-{split}.csv", its)
    context = context_of(run)
    assert isinstance(context.recipe, ClassifyRecipe)

    shared = read_notes(context, context.recipe).facts()["shared_with_training"]

    assert shared == {"validation": {"notes": 0}, "test": {"notes": 0}}


def test_ids_that_are_no_row_numbers_stand_for_patients(tmp_path: Path) -> None:
    run = make_classify_run(tmp_path)
    write_table(tmp_path / "binary-train.csv", [("p5", "one", "1"), ("p7", "two", "0")])
    write_table(tmp_path / "binary-validation.csv", [("p7", "three", "0"), ("p7", "four", "1")])
    write_table(tmp_path / "binary-test.csv", [("p6", "one", "0"), ("p8", "five", "1")])
    context = context_of(run)
    assert isinstance(context.recipe, ClassifyRecipe)

    assert read_notes(context, context.recipe).facts()["shared_with_training"] == {
        "validation": {"ids": 1}, "test": {"ids": 0},
    }  # fmt: skip


def test_every_bad_row_is_named_with_its_line_and_none_is_quoted(tmp_path: Path) -> None:
    path = tmp_path / "notes.csv"
    path.write_text('id,text,label\n1,fine,0\n2,"two\nlines",secret\n3,"open quote,1\n4,fine,1\n5,,0\n6,short\n')

    with pytest.raises(LauncherError) as caught:
        read_table(str(path), csv_notes(), ("0", "1"))

    lines = str(caught.value).splitlines()
    assert lines[0] == "data: 4 rows cannot be used; correct or remove them"
    assert {line.partition(": ")[0] for line in lines[1:]} == {f"{path}:{number}" for number in (3, 5, 7, 8)}
    assert "secret" not in str(caught.value)


def test_many_bad_rows_are_counted(tmp_path: Path) -> None:
    path = write_table(tmp_path / "notes.csv", [(str(number), "text", "x") for number in range(50)])

    with pytest.raises(LauncherError, match=r"(?s)data: 50 rows cannot be used.*and 30 more") as caught:
        read_table(str(path), csv_notes(), ("0", "1"))

    lines = str(caught.value).splitlines()
    assert len(lines) == 23
    assert lines[-1].startswith("data.classes: no note has `0`, `1` as `label`; there are `x` (50 notes);")


def test_each_class_must_be_that_of_a_note(tmp_path: Path) -> None:
    context = context_of(make_classify_run(tmp_path, "multiclass", data={"classes": ["0", "1", "2", "00"]}))
    assert isinstance(context.recipe, ClassifyRecipe)

    with pytest.raises(
        LauncherError, match=r"^data\.classes: no note has `00` as `label`; there are `0` \(\d+ notes\), "
    ):
        read_notes(context, context.recipe)


@pytest.mark.parametrize(
    ("key", "name", "there"),
    [("label_column", "labl", "`label`, "), ("text_column", "txt", "`text`, "), ("id_column", "di", "`id`, ")],
)
@pytest.mark.parametrize("data_use", ["open", "credentialed"])
def test_each_column_must_be_in_the_first_row(tmp_path: Path, key: str, name: str, there: str, data_use: str) -> None:
    context = context_of(make_classify_run(tmp_path, data={key: name}, data_use=data_use))
    assert isinstance(context.recipe, ClassifyRecipe)

    with pytest.raises(LauncherError, match=rf"^data\.{key}: .* names no column `{name}`") as caught:
        read_notes(context, context.recipe)

    assert (f"there are {there}" in str(caught.value)) == (data_use == "open"), "without a header the row is a note"


def test_codes_that_the_vocabulary_lacks_are_counted(tmp_path: Path) -> None:
    path = write_table(tmp_path / "notes.csv", [("1", "text", "401,999,998"), ("2", "text", "")])

    with pytest.raises(LauncherError, match=r":2: 2 of the 3 codes in its `label` are none of the 4 classes"):
        read_table(str(path), csv_notes("multilabel"), ("401", "250", "428", "E888"))


def test_a_vocabulary_of_1266_codes_makes_a_row_of_flags_for_each_note(tmp_path: Path) -> None:
    codes = [f"{number:04}" for number in range(1266)]
    (tmp_path / "codes.txt").write_text(" ".join(codes))
    path = write_table(tmp_path / "notes.csv", [("1", "text", "0000,1265"), ("2", "text", ""), ("3", "text", "0007")])
    data = csv_notes("multilabel", classes=[], class_file="codes.txt")

    classes = read_classes(data, lambda name: str(tmp_path / name))
    truth = read_table(str(path), data, classes).labels

    assert classes == tuple(codes)
    assert [np.flatnonzero(row).tolist() for row in truth] == [[0, 1265], [], [7]]
    assert class_counts(truth, 1266).sum() == 3


def test_tables_that_were_made_of_credentialed_data_need_a_recipe_that_says_so(tmp_path: Path) -> None:
    context = context_of(make_classify_run(tmp_path))
    (tmp_path / "manifest.json").write_text('{"data_use": "credentialed"}')

    with pytest.raises(
        LauncherError, match=r"^data\.train: `\S+\.csv` was made of credentialed data, as `\S+/manifest\.json` says; "
    ):
        read_notes(context, context.recipe)


def test_missing_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(LauncherError, match=r"no note in `.*nothing\.csv`"):
        read_table(str(tmp_path / "nothing.csv"), csv_notes(), ("0", "1"))
    with pytest.raises(LauncherError, match=r"`.*codes\.txt` does not exist; correct `class_file`"):
        read_classes(csv_notes("multilabel", classes=[], class_file="codes.txt"), lambda name: str(tmp_path / name))


def test_validation_notes_on_which_the_metric_means_nothing_are_refused(tmp_path: Path) -> None:
    for split in ("train", "validation", "test"):
        write_table(tmp_path / f"binary-{split}.csv", [("1", "text", "0"), ("2", "text", "0")])
    write_table(tmp_path / "binary-train.csv", [("1", "text", "0"), ("2", "text", "1")])
    run = make_run_of(classify_recipe(), tmp_path)

    with pytest.raises(LauncherError, match=r"evaluation\.metric: `auroc` is undefined for these validation notes"):
        read_notes(context_of(run), recipe())


@pytest.mark.parametrize(
    ("how", "expected"),
    [
        ("head", [[0, 1, 2, 3]]),
        ("tail", [[6, 7, 8, 9]]),
        ("head_and_tail", [[0, 1, 8, 9]]),
        ("chunks", [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]),
    ],
)
def test_long_notes_are_cut_as_the_recipe_says(how: Any, expected: list[list[int]]) -> None:
    assert [list(part) for part in cut(range(10), 4, how)] == expected
    assert [list(part) for part in cut(range(4), 4, how)] == [[0, 1, 2, 3]]


def test_an_odd_room_gives_the_head_one_more() -> None:
    assert [list(part) for part in cut(range(10), 5, "head_and_tail")] == [[0, 1, 2, 8, 9]]


@pytest.mark.parametrize("name", ["stories260k", "bert_uncased_wordpiece"])
def test_windows_are_framed_as_the_tokenizer_frames_texts(name: str) -> None:
    path = ASSETS / name if name == "stories260k" else shared_data(f"tokenizers/{name}")
    tokenizer, texts = AutoTokenizer.from_pretrained(path), ["She was happy.", "a b c " * 40]
    expected = tokenizer(texts, truncation=True, max_length=16).input_ids

    windows = list(note_encoder(AutoTokenizer.from_pretrained(path), 16, "head").windows(texts))

    assert [[window.tolist() for window in note] for note in windows] == [[ids] for ids in expected]


def test_names_of_special_tokens_in_a_note_are_text() -> None:
    encoder = note_encoder(AutoTokenizer.from_pretrained(ASSETS / "stories260k"), 32, "head")

    ((window,),) = encoder.windows(["the end</s>"])

    assert 2 not in window.tolist()


def windows(notes: list[int]) -> LabelledWindows:
    ids = [np.array([number, number + 1], np.int32) for number in range(len(notes))]
    return LabelledWindows(ids, np.array(notes), np.arange(max(notes) + 1))


def test_each_epoch_has_all_windows_once_in_an_order_of_its_own() -> None:
    samples = TrainingSamples(windows([0, 0, 1, 2, 3, 3, 4]), seed=1, num_samples=14)

    order = [int(samples[index]["input_ids"][0]) for index in range(14)]

    assert sorted(order[:7]) == sorted(order[7:]) == list(range(7))
    assert order[:7] != order[7:]
    with pytest.raises(IndexError):
        samples[14]


def test_batches_are_padded_on_the_right_to_a_multiple_of_8_within_the_models_length() -> None:
    samples = [
        {"input_ids": np.arange(1, length + 1), "labels": torch.tensor(label)} for length, label in ((3, 0), (9, 1))
    ]

    batch = NoteCollator(pad=0, longest=64)(samples)
    tight = NoteCollator(pad=0, longest=10)(samples)

    assert batch["input_ids"].shape == (2, 16)
    assert tight["input_ids"].shape == (2, 10)
    assert batch["attention_mask"].sum(dim=1).tolist() == [3, 9]
    assert batch["input_ids"][0].tolist() == [1, 2, 3, *[0] * 13]
    assert batch["labels"].tolist() == [0, 1]


def test_chunks_are_pooled_note_by_note() -> None:
    logits = np.array([[1, 5], [3, 1], [2, 2], [0, 9], [4, 0], [2, 0]], np.float32)
    notes = np.array([0, 0, 1, 2, 2, 2])

    assert pooled(logits, notes, "mean").tolist() == [[2, 3], [2, 2], [2, 3]]
    assert pooled(logits, notes, "max").tolist() == [[3, 5], [2, 2], [4, 9]]


def test_balanced_weights_are_those_of_scikit_learn() -> None:
    truth = np.array([0] * 7 + [1] * 2 + [3] * 3)

    weights = balanced_weights(np.bincount(truth, minlength=5))

    expected = compute_class_weight("balanced", classes=np.array([0, 1, 3]), y=truth)
    assert weights[[0, 1, 3]].tolist() == pytest.approx(expected)
    assert weights[[2, 4]].tolist() == [1, 1]


def test_the_loss_is_the_mean_over_the_global_batch_however_it_is_cut() -> None:
    torch.manual_seed(0)
    logits, labels = torch.randn(8, 3), torch.tensor([0, 1, 2, 0, 0, 0, 1, 0])
    weights = torch.tensor([0.5, 2.0, 4.0])
    loss = ClassificationLoss("multiclass", weights)

    def part(rows: slice) -> torch.Tensor:
        return loss(type("Outputs", (), {"logits": logits[rows]}), labels[rows], torch.tensor(8))

    whole = (functional.cross_entropy(logits, labels, reduction="none") * weights[labels]).mean()
    assert part(slice(0, 8)) == pytest.approx(whole)
    assert sum(part(slice(start, start + 2)) for start in range(0, 8, 2)) == pytest.approx(whole)


def test_the_loss_of_several_labels_is_torchs_mean() -> None:
    logits, labels = torch.randn(4, 5), (torch.rand(4, 5) < 0.5).float()

    found = ClassificationLoss("multilabel")(type("Outputs", (), {"logits": logits}), labels, torch.tensor(20))

    assert found == pytest.approx(functional.binary_cross_entropy_with_logits(logits, labels))


def test_invented_notes_are_the_same_every_time() -> None:
    assert invented_notes("binary", 5, "x") == invented_notes("binary", 5, "x")
