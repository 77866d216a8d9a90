"""Makes what trainings read: a model of random weights, a corpus, and examples. Answers with sizes and seconds."""

import json
import random
import shutil
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from bench.gpu.trainings import CORPUS, SHAPES, SOURCE, TINY, Sizes, options_of_program

MODEL_FILES = Path(__file__).parents[2] / "recipes" / "assets" / "stories260k"
FILE_BYTES = 2_000_000_000
EXAMPLES = 256
PROMPT = 130
"""At least the tokens of the template around an instruction."""


def main() -> int:
    """Make the shape's model, and data unless they are there."""
    parser = options_of_program(__doc__)
    parser.add_argument("shape", choices=[*SHAPES])
    options = parser.parse_args()
    sizes = (TINY if options.smallest else SHAPES)[options.shape]
    needed, free = 2 * parameters_of(sizes), shutil.disk_usage(options.work).free
    if needed * 1.1 > free:
        print(
            json.dumps({"skipped": f"needs {needed / 1e9:.0f} GB of disk in {options.work}; {free / 1e9:.0f} are free"})
        )
        return 0
    began = time.monotonic()
    write_model(options.work / options.shape, sizes, options.device)
    written = time.monotonic() - began
    if not (options.work / f"{SOURCE}.json").exists():
        _write_data(options.work, Sizes.of(options.smallest).sequence_length)
    print(json.dumps({"parameters": parameters_of(sizes), "bytes": needed, "write_seconds": written}))
    return 0


def parameters_of(sizes: dict[str, int]) -> int:
    """Count a Llama's parameters, whose embeddings are two tables."""
    hidden, head = sizes["hidden_size"], sizes["head_dim"]
    attention = 2 * hidden * head * (sizes["num_attention_heads"] + sizes["num_key_value_heads"])
    layer = attention + 3 * hidden * sizes["intermediate_size"] + 2 * hidden
    return sizes["num_hidden_layers"] * layer + 2 * sizes["vocab_size"] * hidden + hidden


def write_model(folder: Path, sizes: dict[str, int], device: str) -> None:
    """Write a Llama of random weights in bf16, in files of about 2 GB, with the tokenizer of the tiny one."""
    import torch
    from safetensors.torch import save_file

    folder.mkdir(exist_ok=True)
    config = json.loads((MODEL_FILES / "config.json").read_text(encoding="utf-8"))
    config |= {**sizes, "tie_word_embeddings": False, "dtype": "bfloat16", "max_position_embeddings": 4096}
    (folder / "config.json").write_text(json.dumps(config))
    for path in MODEL_FILES.glob("*token*"):
        shutil.copy(path, folder)
    torch.manual_seed(0)
    held: dict[str, Any] = {}
    where: dict[str, str] = {}
    for name, shape in _tensors(sizes):
        scale = torch.ones if len(shape) == 1 else torch.randn
        held[name] = (scale(shape, device=device, dtype=torch.bfloat16) * (1 if len(shape) == 1 else 0.02)).cpu()
        if sum(tensor.nbytes for tensor in held.values()) >= FILE_BYTES or name == "lm_head.weight":
            file = f"model-{len(set(where.values())):05d}.safetensors"
            save_file(held, folder / file, metadata={"format": "pt"})
            where |= dict.fromkeys(held, file)
            held = {}
    index = {"metadata": {"total_size": 2 * parameters_of(sizes)}, "weight_map": where}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


def _tensors(sizes: dict[str, int]) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Names and shapes of a Llama's tensors; the output embedding is the last."""
    hidden, inner, head = sizes["hidden_size"], sizes["intermediate_size"], sizes["head_dim"]
    queries, keys = head * sizes["num_attention_heads"], head * sizes["num_key_value_heads"]
    yield "model.embed_tokens.weight", (sizes["vocab_size"], hidden)
    for layer in range(sizes["num_hidden_layers"]):
        of_layer = {
            "self_attn.q_proj": (queries, hidden),
            "self_attn.k_proj": (keys, hidden),
            "self_attn.v_proj": (keys, hidden),
            "self_attn.o_proj": (hidden, queries),
            "mlp.gate_proj": (inner, hidden),
            "mlp.up_proj": (inner, hidden),
            "mlp.down_proj": (hidden, inner),
            "input_layernorm": (hidden,),
            "post_attention_layernorm": (hidden,),
        }
        for name, shape in of_layer.items():
            yield f"model.layers.{layer}.{name}.weight", shape
    yield "model.norm.weight", (hidden,)
    yield "lm_head.weight", (sizes["vocab_size"], hidden)


def _write_data(work: Path, length: int) -> None:
    """Write a corpus with a document boundary in most sequences, and examples that nearly fill one."""
    from tests.support.corpora import make_corpus

    draw = random.Random(0)
    documents = [[draw.randrange(3, 500) for _ in range(draw.randrange(length // 4, length))] + [2] for _ in range(400)]
    make_corpus(work / "corpora" / CORPUS, [documents])
    examples = [
        {
            "instruction": f"Write text {number}.",
            "input": "",
            "output": _text(draw, (length - PROMPT) * draw.uniform(0.5, 0.95)),
        }
        for number in range(EXAMPLES)
    ]
    (work / f"{SOURCE}.json").write_text(json.dumps(examples))


def _text(draw: random.Random, tokens: float) -> str:
    """Make text of words of one letter, each of which is little more than a token of the tiny tokenizer."""
    return " ".join(draw.choice("abcdefghilmnoprstuw") for _ in range(int(tokens / 1.06)))


if __name__ == "__main__":
    sys.exit(main())
