"""Parts of a trace that need no model: what a ring sends, names of places, from few layers to many."""

from collections import Counter

import pytest

from jobs.trace.collectives import Message, ring_bytes
from jobs.trace.extrapolate import trace_of
from jobs.trace.measure import Measured, _in_any_number_of_layers
from launcher.artifacts.trace import PARTS


@pytest.mark.parametrize(
    ("name", "ranks", "sent"),
    [("all-gather", 4, 750), ("reduce-scatter", 4, 750), ("all-reduce", 4, 1500), ("all-reduce", 1, 0)],
)
def test_a_ring_sends_each_part_to_all_others(name: str, ranks: int, sent: int) -> None:
    assert ring_bytes(name, 1000, ranks) == sent


@pytest.mark.parametrize(
    ("module", "name"),
    [
        ("Llama.model.layers.0.mlp", "Llama.model.layers.first.mlp"),
        ("Llama.model.layers.3.experts.0", "Llama.model.layers.last.experts.0"),
        ("Llama.model.layers.2.mlp", None),
        ("Llama.lm_head", "Llama.lm_head"),
        ("", ""),
    ],
)
def test_places_have_names_that_all_sizes_share(module: str, name: str | None) -> None:
    assert _in_any_number_of_layers(module, 4) == name


def measured(layers: int) -> Measured:
    """A model whose peak is at its loss as long as it is small."""
    nothing = dict.fromkeys(PARTS, 0)
    peaks = {
        ("last", "forward", "M.lm_head"): nothing | {"other": 1000, "activations": 10 * layers},
        ("last", "backward", "M.layers.first"): nothing | {"gradients": 100 * layers},
    }
    message = Message("all-gather", "shard", 4)
    return Measured(layers, peaks, Counter({message: layers + 2}), Counter({message: 50 * layers}), 7 * layers + 3, 5)


def test_the_peak_of_many_layers_may_be_elsewhere() -> None:
    small, large = (trace_of([measured(2), measured(4)], layers) for layers in (4, 32))

    assert (small.place, small.total) == ("forward, lm_head", 1040)
    assert (large.place, large.total) == ("backward, layers.first", 3200)
    assert (large.messages[0].count, large.messages[0].bytes) == (34, 1600)
    assert (large.parameters, large.trained) == (7 * 32 + 3, 5)
