"""Traces on fake tensors, against the same steps on real ones and against the closed form."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from launcher.artifacts.trace import Trace
from tests.support.traced_runs import carried_out, request_of, traced

LORA = {"method": "lora", "r": 4, "targets": ["q_proj", "v_proj"]}


def large(found: Trace) -> list[Any]:
    """What is sent of tensors; losses and their norm are left out."""
    return sorted((one for one in found.messages if one.bytes > 1000), key=str)


@pytest.mark.slow
def test_a_trace_is_what_real_ranks_need_and_send(tmp_path: Path) -> None:
    request = request_of(tmp_path, (4,), parallel={"strategy": "hybrid_shard"})

    fake, real = traced(request), carried_out(request, tmp_path)

    assert fake.memory == real.memory
    assert large(fake) == large(real)
    assert {one.dimension: one.ranks for one in large(fake)} == {"shard": 2, "replicate": 2}


@pytest.mark.slow
def test_two_small_models_tell_what_the_whole_one_needs(tmp_path: Path) -> None:
    request = request_of(tmp_path, (4,), parallel={"strategy": "full_shard"}, adapter=LORA)

    whole, small = traced(request), traced(replace(request, traced=(2, 3)))

    assert small.memory == whole.memory
    assert small.messages == whole.messages
    assert (small.parameters, small.trained) == (whole.parameters, whole.trained)
