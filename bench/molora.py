"""The expert part of MoLoRA: ours, against every expert for every token as published, and against grouped tokens.

One projection of Qwen1.5-7B (4,096 to 11,008), experts of rank 16, 8 of them and 2 for each token; forward and
backward in fp32, in turns in one process. MedCare's layer lets all experts compute all tokens and then takes what was
chosen; ours does as many products, with zeros for what was not chosen, but makes one output instead of one for each
expert. `grouped` is the textbook's way: each expert computes the tokens that chose it, and the results are added up
where they belong.

    python bench/molora.py [--rounds 9] [--tokens 512] [--json] [--smallest]
"""

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

import torch
from torch import Tensor, nn

from jobs.models.adapters.molora import MixtureOfExperts, MoLoraConfig

INPUTS, OUTPUTS, RANK, EXPERTS, TOP_K = 4096, 11008, 16, 8, 2
BAR = 3.5
Way = Callable[[MixtureOfExperts, Tensor, Tensor, Tensor], Tensor]


def main() -> int:
    options = _parse()
    torch.manual_seed(0)
    mixture = MixtureOfExperts(
        INPUTS, OUTPUTS, MoLoraConfig(r=RANK, lora_alpha=RANK, experts=EXPERTS, top_k=TOP_K, shared_experts=0)
    )
    nn.init.normal_(mixture.routed_B, std=0.02)
    x = torch.randn(options.tokens, INPUTS, requires_grad=True)
    gates, chosen = torch.randn(options.tokens, EXPERTS).softmax(-1).topk(TOP_K)
    ways: dict[str, Way] = {"ours": MixtureOfExperts.combine, "published": published, "grouped": grouped}
    expected = MixtureOfExperts.combine(mixture, x, chosen, gates)
    for way in ways.values():
        torch.testing.assert_close(way(mixture, x, chosen, gates), expected, atol=1e-4, rtol=1e-4)
        _time(way, mixture, x, chosen, gates)
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for number in range(options.rounds):
        for name in [*ways][:: -1 if number % 2 else 1]:
            seconds[name].append(_time(ways[name], mixture, x, chosen, gates))
    return _report(seconds, options)


def published(mixture: MixtureOfExperts, x: Tensor, chosen: Tensor, gates: Tensor) -> Tensor:
    """All experts, one after the other, stacked; then the chosen ones are taken and weighted."""
    every = torch.stack([x @ a.T @ b.T for a, b in _experts(mixture)], dim=1)
    taken = every.gather(1, chosen.unsqueeze(-1).expand(-1, -1, every.shape[-1]))
    return (taken * gates.unsqueeze(-1)).sum(1)


def grouped(mixture: MixtureOfExperts, x: Tensor, chosen: Tensor, gates: Tensor) -> Tensor:
    """Each expert computes the tokens that chose it."""
    order = chosen.flatten().argsort(stable=True)
    sizes = chosen.flatten().bincount(minlength=EXPERTS).tolist()
    tokens = (order // TOP_K).split(sizes)
    weights = gates.flatten()[order].unsqueeze(1).split(sizes)
    result = x.new_zeros(len(x), OUTPUTS)
    for rows, weight, (a, b) in zip(tokens, weights, _experts(mixture), strict=True):
        result.index_add_(0, rows, (x[rows] @ a.T * weight) @ b.T)
    return result


def _experts(mixture: MixtureOfExperts) -> list[tuple[Tensor, Tensor]]:
    return [*zip(mixture.routed_A.chunk(EXPERTS), mixture.routed_B.chunk(EXPERTS, dim=1), strict=True)]


def _time(way: Way, mixture: MixtureOfExperts, x: Tensor, chosen: Tensor, gates: Tensor) -> float:
    x.grad = None
    mixture.zero_grad()
    start = time.perf_counter()
    way(mixture, x, chosen, gates).sum().backward()
    return time.perf_counter() - start


def _report(seconds: dict[str, list[float]], options: argparse.Namespace) -> int:
    medians = {name: statistics.median(times) for name, times in seconds.items()}
    ratios = {name: medians[name] / medians["ours"] for name in ("published", "grouped")}
    is_reached = ratios["published"] >= BAR
    if options.json:
        print(json.dumps({"seconds": medians, "ratios": ratios, "bar": BAR}))
    else:
        said = ", ".join(f"{name} {1e3 * median:.0f} ms" for name, median in medians.items())
        judged = "not judged" if options.smallest else "reached" if is_reached else "MISSED"
        print(f"{said}; ours is {ratios['published']:.1f} times as fast as published ({judged}: at least {BAR})")
        print(f"and {ratios['grouped']:.1f} times as fast as grouping tokens by expert")
    return 0 if is_reached or options.smallest else 1


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--tokens", type=int, default=512)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--smallest", action="store_true", help="see that it works, in seconds; judge nothing")
    options = parser.parse_args()
    if options.smallest:
        options.rounds, options.tokens = 1, 16
    return options


if __name__ == "__main__":
    sys.exit(main())
