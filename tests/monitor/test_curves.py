"""Curves keep every extreme, and count each step once."""

import json
import math
from collections import defaultdict
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from launcher.monitor.curves import Curve, read_curves
from launcher.monitor.traces import kept_limits
from launcher.run.ledger import read_attempts
from tests.support.run_histories import History

NUMBERS = st.floats(-1e6, 1e6) | st.none() | st.just(math.nan) | st.just(math.inf) | st.just("text")


@given(st.lists(st.tuples(st.integers(1, 40), NUMBERS), max_size=60), st.integers(1, 8), st.integers(1, 20))
def test_each_bin_has_the_least_the_mean_and_the_greatest_of_its_steps(rows, most, cut):
    steps, values, step = [], [], 0
    for distance, value in rows:
        step += distance
        steps.append(step)
        values.append(value)
    curve = Curve(most=most)

    for start in range(0, len(steps), cut):
        curve.add(steps[start : start + cut], values[start : start + cut])

    expected = defaultdict(list)
    for step, value in zip(steps, values, strict=True):
        if isinstance(value, float) and math.isfinite(value):
            expected[step // curve.width].append(value)
    assert len(curve.bins) <= most
    found = [(low, mean, high) for _, low, mean, high in curve.points()]
    flat = [
        (min(some), pytest.approx(math.fsum(some) / len(some), rel=1e-9, abs=1e-6), max(some))
        for _, some in sorted(expected.items())
    ]
    assert found == flat


def test_steps_that_were_done_again_count_once_and_a_spike_is_seen(tmp_path: Path) -> None:
    history = History.begin(tmp_path).submit("7", at=0).start(0, "7", at=0).train(0, 0, 500, at=0, loss=3.0)
    history.end(0, "killed", "requeue", at=2000, last_step=400).start(1, "7", at=2000)
    history.train(1, 400, 1000, at=2000, loss=2.0)
    with history.run.metrics.open("a") as metrics:
        metrics.write(json.dumps({"time": 0.0, "step": 1001, "attempt": 1, "loss": 99.0, "lr": 1e-4}) + "\n")

    found = read_curves(history.run.metrics, kept_limits(read_attempts(history.run.ledger)), columns=100)

    points = found.curves["loss"].points()
    assert found.rows == 1101
    assert len(points) <= 100
    assert sum(one.count for one in found.curves["loss"].bins.values()) == 1001
    assert max(high for *_, high in points) == 99.0
    assert {mean for step, _, mean, _ in points if step < 390} == {3.0}
    assert {mean for step, _, mean, _ in points if 411 < step < 980} == {2.0}
    assert list(found.curves) == ["loss", "tokens_per_second", "lr"]


def test_a_run_without_metrics_has_no_curves(tmp_path: Path) -> None:
    assert read_curves(tmp_path / "metrics.jsonl", {}).curves == {}
