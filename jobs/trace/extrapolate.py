"""From models of a few layers to the whole one: what each layer adds is added as often as there are layers."""

from collections.abc import Mapping, Sequence

from jobs.trace.collectives import Message
from jobs.trace.measure import Measured, Place
from launcher.artifacts.trace import PARTS, Trace, TracedMessages


def trace_of(measured: Sequence[Measured], layers: int) -> Trace:
    """Return what the whole model needs.

    Each place of the training grows linearly with the layers, and the largest of the whole model is its peak; it may be
    another than that of a small model.

    Args:
        measured: One or two models that were measured.
        layers: Of the whole model.
    """
    small, large = measured[0], measured[-1]

    def grown(first: int, second: int) -> int:
        if small.layers == large.layers:
            return second
        return first + (second - first) * (layers - small.layers) // (large.layers - small.layers)

    peaks = {
        place: {part: grown(small.peaks[place][part], large.peaks[place][part]) for part in PARTS}
        for place in small.peaks.keys() & large.peaks.keys()
    }
    place = max(peaks, key=lambda one: (sum(peaks[one].values()), one))
    return Trace(
        memory=peaks[place],
        place=_describe(place),
        messages=tuple(
            TracedMessages(*message, grown(small.counts[message], large.counts[message]), sent)
            for message, sent in _sorted(
                {one: grown(small.bytes[one], large.bytes[one]) for one in small.counts.keys() | large.counts.keys()}
            )
        ),
        parameters=grown(small.parameters, large.parameters),
        trained=grown(small.trained, large.trained),
        layers=tuple(one.layers for one in measured),
    )


def _sorted(sent: Mapping[Message, int]) -> list[tuple[Message, int]]:
    return sorted(sent.items(), key=lambda one: (-one[1], one[0]))


def _describe(place: Place) -> str:
    _, phase, module = place
    inside = module.partition(".")[2]
    return f"{phase}, {inside}" if inside else phase
