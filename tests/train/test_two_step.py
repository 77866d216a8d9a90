"""Two-step adapters trained for real: processes, gloo, FSDP2 and DeepSpeed on CPUs, a real 260k-parameter Llama."""

import json
import shutil
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer

from launcher.artifacts.adapter_folder import read_adapter
from launcher.run.ledger import read_attempts
from launcher.run.paths import FINISHED, NEVER_RESTART, RunDir
from launcher.run.record import RunRecord
from tests.kinds.test_classify import predicted, probabilities
from tests.kinds.test_sft import make_run as make_sft_run
from tests.support.labelled_runs import SIZES, invented_notes, make_classify_run
from tests.support.training_runs import ASSETS, losses, make_run, make_run_of, preempted_once, start, train
from tests.support.two_step_adapters import (
    DOWNSTREAM,
    STORIES,
    batch_of,
    in_plain_peft,
    loss_of,
    make_clinical,
    tensors_of,
    train_plainly,
)

pytestmark = pytest.mark.slow

STEPS = 10
NEEDS_DEEPSPEED = pytest.mark.skipif(find_spec("deepspeed") is None, reason="deepspeed is not installed")
NEEDS_BITSANDBYTES = pytest.mark.skipif(find_spec("bitsandbytes") is None, reason="bitsandbytes is not installed")
STRATEGIES = [
    ("ddp", 2, 1),
    ("full_shard", 2, 1),
    ("hybrid_shard", 4, 2),
    pytest.param("zero2", 2, 1, marks=NEEDS_DEEPSPEED),
    pytest.param("zero3", 2, 1, marks=NEEDS_DEEPSPEED),
]
PLAIN = {"betas": [0, 0], "eps": 1.0, "lr": 0.5, "weight_decay": 0, "clip_norm": None}
"""AdamW whose updates grow with the gradients: lr g / (|g| + 1). Other ones would hide gradients of wrong size."""
PUBLISHED = """
import sys
import jobs.__main__ as task
from jobs.models.adapters import stack as stacking
stacking.activate = lambda model, names: model.base_model.set_adapter(names[0])
sys.exit(task.main())
"""
"""The published code: the second adapter is added, and the first stays the active one."""


def model(*trainable: bool) -> dict[str, Any]:
    return {"path": "stories260k", "adapters": [{"path": "./clinical", "trainable": one} for one in trainable]}


def two_step_run(folder: Path, strategy: str = "ddp", trainable: bool = True, **changes: Any) -> RunDir:
    sections: dict[str, Any] = {
        "model": model(trainable),
        "adapter": DOWNSTREAM | {"dropout": 0.1},
        "parallel": {"strategy": strategy},
        "schedule": {"length": f"{STEPS} steps", "warmup": "2 steps"},
        "batch": {"micro_batch": 1 if strategy == "hybrid_shard" else 2},
    }
    return make_run(folder, **sections | changes)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("two-step")
    make_clinical(folder / "clinical")
    return folder


def clinical_of(run: RunDir) -> Path:
    """The export's copy of the clinical adapter."""
    return run.outputs / "model" / "clinical-0"


@pytest.mark.parametrize(("strategy", "ranks", "nodes"), STRATEGIES)
def test_preempted_once_equals_uninterrupted_to_the_last_bit(
    folder: Path, strategy: str, ranks: int, nodes: int
) -> None:
    whole, run = two_step_run(folder, strategy), two_step_run(folder, strategy)
    assert train(whole, ranks, nodes).exit_codes == [FINISHED] * ranks

    preempted_once(run, ranks, nodes)

    assert losses(run) == losses(whole)
    for one, other in ((clinical_of(run), clinical_of(whole)), (run.outputs / "model", whole.outputs / "model")):
        assert all(torch.equal(tensor, tensors_of(other)[name]) for name, tensor in tensors_of(one).items())


@pytest.mark.parametrize("trainable", [True, False])
@pytest.mark.parametrize(("strategy", "ranks", "nodes"), STRATEGIES)
def test_training_is_that_of_plain_autograd_on_the_sum(
    folder: Path, strategy: str, ranks: int, nodes: int, trainable: bool
) -> None:
    changes = {"adapter": DOWNSTREAM, "optim": PLAIN, "schedule": {"length": "3 steps", "shape": "constant"}}
    changes["schedule"] |= {"warmup": "0 steps"}
    run = two_step_run(folder, strategy, trainable, **changes)

    assert train(run, ranks, nodes).exit_codes == [FINISHED] * ranks

    expected = train_plainly(run, folder / "clinical", 3, trainable)
    assert list(losses(run).values()) == pytest.approx(expected.losses, rel=1e-5)
    before, trained = tensors_of(folder / "clinical"), [(run.outputs / "model", expected.downstream)]
    if trainable:
        trained.append((clinical_of(run), expected.clinical))
        assert any((expected.clinical[name] - before[name]).abs().max() > 1e-3 for name in before)
    for place, wanted in trained:
        assert tensors_of(place).keys() == wanted.keys()
        for name, tensor in tensors_of(place).items():
            torch.testing.assert_close(tensor, wanted[name].detach(), rtol=1e-3, atol=1e-4)  # fp32; changes are 0.8
    assert clinical_of(run).exists() == trainable


@pytest.mark.parametrize(("strategy", "ranks", "nodes"), STRATEGIES)
def test_with_the_published_activation_the_run_ends_for_good(
    folder: Path, strategy: str, ranks: int, nodes: int
) -> None:
    run = two_step_run(folder, strategy)

    attempt = start(run, ranks, nodes, program=("-c", PUBLISHED))

    assert NEVER_RESTART in attempt.wait()  # whoever is slower to leave is ended
    assert "lora_A.default.weight`" in attempt.log()
    assert "declared trainable, but without effect on the loss; is the adapter active?" in attempt.log()
    assert losses(run) == {}
    assert [attempt.reason for attempt in read_attempts(run.ledger)] == [None]


@pytest.fixture(scope="module", params=[True, False], ids=["trained", "frozen"])
def trained(folder: Path, request: pytest.FixtureRequest) -> RunDir:
    """A finished run of one process."""
    changes = {"adapter": DOWNSTREAM, "optim": {"lr": 1e-2}, "checkpoint": {"interval": f"{STEPS - 1} steps"}}
    run = two_step_run(folder, trainable=request.param, **changes)
    assert train(run).exit_codes == [FINISHED]
    return run


def places(run: RunDir, folder: Path) -> tuple[Path, Path]:
    """Where the two adapters lie that belong together."""
    is_trained = clinical_of(run).exists()
    return clinical_of(run) if is_trained else folder / "clinical", run.outputs / "model"


def test_checkpoints_hold_what_is_trained_and_nothing_else(trained: RunDir) -> None:
    saved = tensors_of_checkpoint(trained)

    names = {name.split(".")[-2] for name in saved}
    assert names == ({"default", "clinical-0"} if clinical_of(trained).exists() else {"default"})
    assert {name.split(".")[-3] for name in saved} == {"lora_A", "lora_B"}


def tensors_of_checkpoint(run: RunDir, step: int = STEPS) -> dict[str, torch.Tensor]:
    return load_file(run.checkpoint(step) / "adapter.safetensors")


def test_the_loss_of_the_last_step_is_that_of_plain_peft_on_the_weights_before_it(
    folder: Path, trained: RunDir
) -> None:
    saved, (inputs, labels) = tensors_of_checkpoint(trained, STEPS - 1), batch_of(trained, STEPS)
    both = in_plain_peft(*places(trained, folder))

    with torch.no_grad():
        after = loss_of(both(**inputs, use_cache=False).logits, labels).item()
        for name, parameter in both.named_parameters():
            of_run = name.replace(".downstream.", ".default.").replace(".clinical.", ".clinical-0.")
            if of_run in saved:
                parameter.copy_(saved.pop(of_run))
        before = loss_of(both(**inputs, use_cache=False).logits, labels).item()

    assert not saved
    assert before == pytest.approx(losses(trained)[STEPS], rel=1e-5)
    assert after != pytest.approx(before, rel=1e-4)


def test_plain_peft_loads_both_side_by_side(folder: Path, trained: RunDir) -> None:
    ids = torch.arange(48).reshape(2, 24) + 3
    clinical, downstream = places(trained, folder)

    both = in_plain_peft(clinical, downstream)
    said = both(input_ids=ids).logits
    both.base_model.set_adapter(["downstream"])
    alone = both(input_ids=ids).logits

    saved = {name: tensor for name, tensor in tensors_of_checkpoint(trained).items()}
    for place, name in ((downstream, "default"), (clinical, "clinical-0")):
        theirs = {key: tensor for key, tensor in saved.items() if f".{name}." in key}
        assert all(
            torch.equal(tensors_of(place)[key.replace(f".{name}", "")], tensor) for key, tensor in theirs.items()
        )
    assert not torch.allclose(said, alone, atol=0.05)
    assert not torch.allclose(said, AutoModelForCausalLM.from_pretrained(STORIES)(input_ids=ids).logits, atol=0.1)


def test_who_may_read_the_configuration_may_read_the_weights(trained: RunDir) -> None:
    export = trained.outputs / "model"

    weights = [*export.rglob("*.safetensors")]

    assert len(weights) == (2 if clinical_of(trained).exists() else 1)
    assert {path.stat().st_mode for path in weights} == {(export / "adapter_config.json").stat().st_mode}


def test_the_manifest_names_both(folder: Path, trained: RunDir) -> None:
    manifest = json.loads((trained.outputs / "model" / "manifest.json").read_text())
    clinical, downstream = places(trained, folder)

    (entry,) = manifest["beneath"]
    assert (entry["path"], entry["trainable"]) == ("./clinical", clinical_of(trained).exists())
    assert entry["sha256"] == read_adapter(clinical).digest
    assert manifest["corpora"] == ["notes", "words"]
    assert read_adapter(downstream).base_names == ["stories260k"] * 2
    read_adapter(downstream).require_base_adapters([read_adapter(clinical)])
    read_adapter(clinical).require_base_adapters([])


def test_merging_both_in_order_gives_the_model_that_was_trained(folder: Path, trained: RunDir) -> None:
    clinical, downstream = places(trained, folder)
    adapters = [{"path": f"./{place.relative_to(folder)}"} for place in (clinical, downstream)]
    recipe = {"kind": "merge", "name": "merged", "base_model": "stories260k", "adapters": adapters}
    run = make_run_of(recipe | {"resources": {"time": "1h"}}, folder)

    assert train(run).exit_codes == [FINISHED]

    ids = torch.arange(48).reshape(2, 24) + 3
    merged = AutoModelForCausalLM.from_pretrained(run.outputs / "model").eval()
    torch.testing.assert_close(
        merged(input_ids=ids).logits, in_plain_peft(clinical, downstream)(input_ids=ids).logits, rtol=0, atol=1e-4
    )


def test_merging_one_without_the_other_is_refused(folder: Path, trained: RunDir) -> None:
    _, downstream = places(trained, folder)
    adapters = [{"path": f"./{downstream.relative_to(folder)}"}]
    recipe = {"kind": "merge", "name": "merged", "base_model": "stories260k", "adapters": adapters}

    attempt = train(run := make_run_of(recipe | {"resources": {"time": "1h"}}, folder))

    assert attempt.exit_codes == [NEVER_RESTART]
    which = "`clinical-0` in the same folder" if clinical_of(trained).exists() else "that one"
    assert f"was trained on top of the adapter `./clinical`; name {which}" in attempt.log()
    assert not run.outputs.exists() or not [*run.outputs.iterdir()]


def test_nothing_open_is_made_on_top_of_a_credentialed_adapter(folder: Path) -> None:
    make_clinical(folder / "bound", data_use="credentialed")
    section = {"path": "stories260k", "adapters": [{"path": "./bound"}]}

    attempt = train(two_step_run(folder, model=section))

    assert attempt.exit_codes == [NEVER_RESTART]
    assert "bound` was made of credentialed data; write `credentialed`" in attempt.log()
    assert attempt.steps() == []


@NEEDS_BITSANDBYTES
@pytest.mark.parametrize("strategy", ["full_shard", pytest.param("zero3", marks=[NEEDS_DEEPSPEED, pytest.mark.long])])
def test_a_base_in_4_bits_carries_a_frozen_and_a_trained_adapter(folder: Path, strategy: str) -> None:
    section = model(False, True) | {"quantization": {"bits": 4}}
    run = two_step_run(folder, strategy, model=section, precision={"dtype": "bf16"}, optim={"lr": 1e-2})

    assert train(run, ranks=2).exit_codes == [FINISHED] * 2

    assert losses(run)[STEPS] < losses(run)[1] - 1
    assert (run.outputs / "model" / "clinical-1").exists()
    assert not (run.outputs / "model" / "clinical-0").exists()


def test_answers_are_learnt_on_top_of_an_adapter(folder: Path) -> None:
    shutil.copy(ASSETS / "medquad_80.json.gz", folder / "medquad.json.gz")
    data = {"sources": [{"name": "medquad", "files": "medquad.json.gz", "format": "alpaca"}]}
    run = make_sft_run(folder, model=model(True), adapter=DOWNSTREAM, data=data, schedule={"length": "6 steps"})

    assert train(run).exit_codes == [FINISHED]

    assert losses(run)[6] < losses(run)[1]
    assert tensors_of(run.outputs / "model")
    assert tensors_of(clinical_of(run))


def classify_run(folder: Path, trainable: bool, strategy: str = "ddp") -> RunDir:
    changes: dict[str, Any] = {"model": model(trainable), "parallel": {"strategy": strategy}}
    return make_classify_run(folder, adapter=DOWNSTREAM | {"dropout": 0.1}, **changes)


@pytest.mark.parametrize(
    ("strategy", "ranks", "trainable"),
    [
        ("ddp", 1, False),
        ("full_shard", 2, True),
        pytest.param("zero3", 2, True, marks=[NEEDS_DEEPSPEED, pytest.mark.long]),
    ],
)
def test_a_classifier_on_top_of_a_clinical_adapter_is_resumed_and_predicts_in_plain_peft(
    folder: Path, strategy: str, ranks: int, trainable: bool
) -> None:
    whole, run = (classify_run(folder, trainable, strategy) for _ in range(2))
    assert train(whole, ranks).exit_codes == [FINISHED] * ranks

    preempted_once(run, ranks, step=6)

    assert losses(run) == losses(whole)
    assert predicted(run) == predicted(whole)
    base = AutoModelForSequenceClassification.from_pretrained(STORIES, num_labels=2)
    tokenizer = AutoTokenizer.from_pretrained(run.outputs / "model")
    base.config.pad_token_id = tokenizer.pad_token_id
    plain = in_plain_peft(*places(run, folder), base=base)
    texts = [text for _, text, _ in invented_notes("binary", SIZES["test"], "test")]
    with torch.no_grad():
        logits = [
            plain(**tokenizer(text, truncation=True, max_length=32, return_tensors="pt")).logits for text in texts
        ]
    assert probabilities(run) == pytest.approx(torch.softmax(torch.cat(logits), dim=1).numpy(), abs=1e-5)


def with_models(run: RunDir, models: Path, **changes: Any) -> RunDir:
    """Have a run find models, and name its own, in a folder."""
    record = RunRecord.read(run.record)
    record.cluster["roots"]["models"] = str(models)
    for name, value in changes.items():
        setattr(record, name, value)
    record.write(run.record)
    return run


def test_what_a_run_makes_is_what_the_next_one_starts_from(tmp_path: Path) -> None:
    models = tmp_path / "models"
    shutil.copytree(STORIES, models / "stories260k")
    short: dict[str, Any] = {"schedule": {"length": "2 steps", "warmup": "0 steps"}, "data_use": "credentialed"}
    first = make_run(tmp_path, adapter=DOWNSTREAM, output="clinical", **short)
    second = {"model": {"path": "stories260k", "adapters": [{"path": "clinical"}]}, "adapter": DOWNSTREAM}

    assert train(with_models(first, models)).exit_codes == [FINISHED]
    assert train(with_models(make_run(tmp_path, **second, **short), models)).exit_codes == [FINISHED]

    assert (models / "clinical" / "adapter_model.safetensors").stat().st_mode & 0o077 == 0
