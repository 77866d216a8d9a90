"""What batch generation costs beside transformers' own: tokens/s of our batches and of plain `generate`.

Same model in memory, same prompts, same number of new tokens, greedy, one process and one thread, in turns whose order
alternates, in CPU seconds; ratios are medians over the rounds. The peer is transformers' `generate` on the same
prompts, sorted by length, in batches of a fixed size (the better one of two); ours are cut by tokens, as
`kind: generate` cuts them. In fp32 the texts of both have to be the same. `--batching` also measures transformers'
continuous batching (`generate_batch`). The model is a Llama of random weights, for which one token in 50 ends a text,
so that texts have different lengths, as real ones have; `--full` measures texts that all have the same.

    python bench/generate.py [--rounds 5] [--prompts 48] [--json] [--batching] [--full] [--smallest]
"""

import argparse
import json
import os
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

from jobs.evaluation.generator import GenerationRequest, Generator
from jobs.evaluation.loaded_model import LoadedModel
from launcher.recipe.sections.generation import Decoding
from tests.support.training_runs import ASSETS

BAR = 1.0
NEW_TOKENS, TOKENS_PER_BATCH, SIZES = 96, 16384, (8, 16)
END_EVERY = 50
MODEL = {"hidden_size": 256, "intermediate_size": 704, "num_hidden_layers": 8, "vocab_size": 32_000}
SMALLEST_MODEL = {"hidden_size": 64, "intermediate_size": 176, "num_hidden_layers": 2, "vocab_size": 1_000}
Texts = dict[int, list[int]]
"""Token ids that were written for each prompt."""


def main() -> int:
    options = _parse()
    os.environ |= {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
    import torch

    torch.set_num_threads(1)
    model = make_model(SMALLEST_MODEL if options.smallest else MODEL)
    model.model.generation_config.eos_token_id = None if options.full else ends(model)
    prompts = read_prompts(model, options.prompts)
    ways: dict[str, Callable[[], Texts]] = {"ours": lambda: ours(model, prompts)}
    ways |= {f"peer, {size} at a time": lambda size=size: peer(model, prompts, size) for size in SIZES}
    if options.batching:
        ways["generate_batch"] = lambda: continuous(model, prompts)
    speeds: dict[str, list[float]] = {name: [] for name in ways}
    for number in range(options.rounds):
        texts = {name: _timed(way, speeds[name]) for name, way in [*ways.items()][:: -1 if number % 2 else 1]}
        for name in [*ways][1 : 1 + len(SIZES)]:
            assert texts[name] == texts["ours"], f"{name}: other texts than ours"
    return _report(speeds, options)


def make_model(sizes: dict[str, int]) -> LoadedModel:
    """A Llama of random weights, with the tokenizer of the tiny one."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, set_seed

    set_seed(0)
    config = AutoConfig.from_pretrained(
        ASSETS / "stories260k", max_position_embeddings=2048, tie_word_embeddings=False, initializer_range=0.1, **sizes
    )
    model = AutoModelForCausalLM.from_config(config).eval()
    tokenizer = AutoTokenizer.from_pretrained(ASSETS / "stories260k")
    tokenizer.eos_token = None
    return LoadedModel(model, tokenizer, torch.device("cpu"), torch.float32, {})


def ends(model: LoadedModel) -> list[int]:
    """Tokens that end a text."""
    return [*range(0, model.rows, END_EVERY)]


def read_prompts(model: LoadedModel, count: int) -> list[list[int]]:
    """Beginnings of MedQA's questions, of many lengths."""
    lines = (ASSETS / "medqa_40.jsonl").read_bytes().splitlines()
    texts = [json.loads(lines[number % len(lines)])["question"] for number in range(count)]
    return [model.tokenizer.encode(f"{text[: 80 + 53 * (n % 11)]}\nAnswer:") for n, text in enumerate(texts)]


def ours(model: LoadedModel, prompts: Sequence[list[int]]) -> Texts:
    """By the batches of `kind: generate`."""
    requests = [GenerationRequest(str(number), ids) for number, ids in enumerate(prompts)]
    generator = Generator(model, requests, Decoding(max_new_tokens=NEW_TOKENS), 0, TOKENS_PER_BATCH)
    texts: Texts = {}
    for batch in generator.batches:
        for number, text in zip(batch, generator.generate(batch), strict=True):
            texts[number] = [*text.ids]
    return texts


def peer(model: LoadedModel, prompts: Sequence[list[int]], size: int) -> Texts:
    """By transformers' `generate`, so many prompts at a time, the longest first."""
    import torch

    order = sorted(range(len(prompts)), key=lambda number: -len(prompts[number]))
    texts: Texts = {}
    for start in range(0, len(order), size):
        batch = order[start : start + size]
        longest = len(prompts[batch[0]])
        ids = torch.tensor([[0] * (longest - len(prompts[number])) + prompts[number] for number in batch])
        mask = torch.tensor([[0] * (longest - len(prompts[n])) + [1] * len(prompts[n]) for n in batch])
        with torch.inference_mode():
            found = model.model.generate(
                input_ids=ids, attention_mask=mask, max_new_tokens=NEW_TOKENS, do_sample=False, pad_token_id=0
            )
        texts |= {number: until_end(model, ids) for number, ids in zip(batch, found[:, longest:].tolist(), strict=True)}
    return texts


def until_end(model: LoadedModel, ids: list[int]) -> list[int]:
    """Leave out the padding behind a text that ended."""
    last = model.model.generation_config.eos_token_id or ()
    return next((ids[: place + 1] for place, token in enumerate(ids) if token in last), ids)


def continuous(model: LoadedModel, prompts: Sequence[list[int]]) -> Texts:
    """By transformers' continuous batching."""
    from transformers import ContinuousBatchingConfig, GenerationConfig

    found = model.model.generate_batch(
        inputs=list(prompts),
        generation_config=GenerationConfig(
            max_new_tokens=NEW_TOKENS,
            do_sample=False,
            eos_token_id=model.model.generation_config.eos_token_id or -1,
            pad_token_id=0,
        ),
        continuous_batching_config=ContinuousBatchingConfig(num_blocks=128, max_batch_tokens=512, page_size=64),
        progress_bar=False,
    )
    assert len(found) == len(prompts), "generate_batch lost prompts"
    return {number: list(one.generated_tokens) for number, one in enumerate(found.values())}


def _timed(way: Callable[[], Texts], speeds: list[float]) -> Texts:
    started = time.process_time()
    texts = way()
    speeds.append(sum(map(len, texts.values())) / (time.process_time() - started))
    return texts


def _report(speeds: dict[str, list[float]], options: argparse.Namespace) -> int:
    medians = {name: statistics.median(values) for name, values in speeds.items()}
    peers = [name for name in speeds if name.startswith("peer")]
    ratio = statistics.median(
        own / max(values) for own, *values in zip(speeds["ours"], *(speeds[name] for name in peers), strict=True)
    )
    result: dict[str, Any] = {"tokens_per_second": medians, "ratio": ratio, "bar": BAR}
    if options.json:
        print(json.dumps(result))
    else:
        for name, value in medians.items():
            print(f"{name:20} {value:8,.0f} tokens/s")
        print(f"ours to the better peer: {ratio:.3f}")
    if options.smallest:
        return 0
    print(f"at least {BAR}: {'holds' if ratio >= BAR else 'MISSED'}")
    return int(ratio < BAR)


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--prompts", type=int, default=48)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--batching", action="store_true", help="measure transformers' continuous batching, too")
    parser.add_argument("--full", action="store_true", help="let all texts have the same length")
    parser.add_argument("--smallest", action="store_true", help="once, on tiny input, judging nothing")
    options = parser.parse_args()
    if options.smallest:
        options.rounds, options.prompts = 1, 6
    return options


if __name__ == "__main__":
    sys.exit(main())
