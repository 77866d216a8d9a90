"""The learning rate, against transformers' own schedules and the published curve of BioMed-LLaMA."""

import math

import pytest
import torch
from transformers.optimization import (
    get_constant_schedule_with_warmup,
    get_cosine_schedule_with_warmup,
    get_cosine_with_min_lr_schedule_with_warmup,
    get_linear_schedule_with_warmup,
    get_wsd_schedule,
)

from jobs.train.lr_schedule import lr_factor
from launcher.recipe.sections.common import Schedule

STEPS = 200


def schedule(**fields: object) -> Schedule:
    return Schedule.model_validate({"length": f"{STEPS} steps", "warmup": "20 steps"} | fields)


def factors_of(section: Schedule) -> list[float]:
    return [lr_factor(step, section, STEPS) for step in range(STEPS + 1)]


def reference(build, **options: object) -> list[float]:
    """Run one of transformers' schedulers and note the learning rate of each step, peak 1."""
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    scheduler = build(optimizer, num_warmup_steps=20, **options)
    factors = []
    for _ in range(STEPS + 1):
        factors.append(scheduler.get_last_lr()[0])
        optimizer.step()
        scheduler.step()
    return factors


def test_cosine_to_a_floor_is_transformers_own() -> None:
    expected = reference(get_cosine_with_min_lr_schedule_with_warmup, num_training_steps=STEPS, min_lr_rate=0.1)

    assert factors_of(schedule(shape="cosine", floor=0.1)) == pytest.approx(expected, abs=1e-12)


def test_linear_to_zero_is_transformers_own() -> None:
    expected = reference(get_linear_schedule_with_warmup, num_training_steps=STEPS)

    assert factors_of(schedule(shape="linear", floor=0.0)) == pytest.approx(expected, abs=1e-12)


def test_constant_is_transformers_own() -> None:
    expected = reference(get_constant_schedule_with_warmup)

    assert factors_of(schedule(shape="constant")) == pytest.approx(expected, abs=1e-12)


def test_warmup_stable_decay_is_transformers_own() -> None:
    expected = reference(
        get_wsd_schedule, num_training_steps=STEPS, num_decay_steps=40, decay_type="linear", min_lr_ratio=0.1
    )

    ours = factors_of(schedule(shape="wsd", decay="40 steps", floor=0.1))
    # Warmup apart: transformers warms up from the floor here, and from 0 everywhere else; we always from 0.
    assert ours[20:] == pytest.approx(expected[20:], abs=1e-12)
    assert ours[:20] == [step / 20 for step in range(20)]


@pytest.mark.parametrize("shape", ["cosine", "truncated_cosine", "linear", "wsd"])
def test_the_floor_is_reached_at_the_last_step_and_kept(shape: str) -> None:
    section = schedule(shape=shape, floor=0.1)

    assert lr_factor(STEPS, section, STEPS) == pytest.approx(0.1)
    assert lr_factor(2 * STEPS, section, STEPS) == pytest.approx(0.1)
    assert lr_factor(STEPS // 2, section, STEPS) > 0.1


def test_biomed_llamas_schedule_is_the_authors_at_every_step() -> None:
    # What their scripts pass as num_cycles, to the digits they print.
    expected = reference(get_cosine_schedule_with_warmup, num_training_steps=STEPS, num_cycles=0.39758361765)

    ours = factors_of(schedule(shape="truncated_cosine", floor=0.1))

    assert ours == pytest.approx(expected, abs=1e-10)
    assert ours[-1] == pytest.approx(0.1)


@pytest.mark.parametrize("floor", [0.0, 0.01, 0.5, 1.0])
def test_a_truncated_cosine_is_transformers_own_for_every_floor(floor: float) -> None:
    cycles = math.acos(2 * floor - 1) / (2 * math.pi)
    expected = reference(get_cosine_schedule_with_warmup, num_training_steps=STEPS, num_cycles=cycles)

    assert factors_of(schedule(shape="truncated_cosine", floor=floor)) == pytest.approx(expected, abs=1e-12)


def test_a_truncated_cosine_lies_above_the_squeezed_one_with_the_same_ends() -> None:
    truncated, squeezed = (factors_of(schedule(shape=shape, floor=0.1)) for shape in ("truncated_cosine", "cosine"))

    assert (truncated[:21], truncated[-1]) == (squeezed[:21], pytest.approx(squeezed[-1]))
    assert max(high - low for high, low in zip(truncated, squeezed, strict=True)) == pytest.approx(0.128, abs=0.001)


def test_without_warmup_the_first_step_has_the_full_rate() -> None:
    assert lr_factor(0, schedule(warmup="0 steps"), STEPS) == 1.0


def test_a_warmup_share_counts_from_the_whole_length() -> None:
    section = schedule(warmup="5%")

    assert lr_factor(9, section, STEPS) == pytest.approx(0.9)
    assert lr_factor(10, section, STEPS) == pytest.approx(1.0)
