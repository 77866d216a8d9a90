"""The same training by a bare loop of torch: transformers' model, autocast, AdamW, and nothing around it."""

import json
import sys
import time
from fractions import Fraction
from functools import partial
from typing import Any

from bench.gpu.our_job import loaded_recipe, run_name, speed_of
from bench.gpu.trainings import CORPUS, Sizes, Training, options_of_program
from launcher.run.paths import RunDir


def main() -> int:
    """Train, and say what was measured."""
    parser = options_of_program(__doc__)
    parser.add_argument("training")
    options = parser.parse_args()
    one = Training.read(options.training)
    loaded, _ = loaded_recipe(one, options.work, options.device, options.smallest)
    times, losses, memory = train(loaded.recipe, options)
    found = speed_of(times, one, loaded, RunDir(options.work / run_name(one)))
    print(json.dumps({**found, "losses": losses, "memory": memory}))
    return 0


def train(recipe: Any, options: Any) -> tuple[list[float], list[float], int]:
    """Return when each step ended, its loss, and the most memory that was allocated."""
    import torch
    from transformers import AutoModelForCausalLM

    from jobs.train.lr_schedule import lr_factor

    steps = Sizes.of(options.smallest).steps
    model = AutoModelForCausalLM.from_pretrained(options.work / recipe.model.path, dtype=torch.float32)
    model.config.use_cache = False
    model.to(options.device).train()
    for layer in model.model.layers if recipe.model.compile else ():
        layer.compile(dynamic=False)
    optimizer = torch.optim.AdamW(model.parameters(), lr=recipe.optim.lr, betas=recipe.optim.betas, fused=True)
    factor = partial(lr_factor, schedule=recipe.schedule, total=recipe.schedule.length.value)
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, factor)
    times, losses = [], []
    for inputs in _batches(recipe, options.work, steps):
        with torch.autocast(options.device, dtype=torch.bfloat16):
            loss = model(**{name: value.to(options.device) for name, value in inputs.items()}).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), recipe.optim.clip_norm)
        optimizer.step()
        scheduler.step()
        optimizer.zero_grad()
        losses.append(loss.item())  # waits for the GPU, as a step of ours does for its row
        times.append(time.time())
    return times, losses, peak_memory()


def _batches(recipe: Any, work: Any, steps: int) -> Any:
    import torch

    from jobs.data.sampling.corpus_reader import open_corpus
    from jobs.data.sampling.dataset import Samples, packed_collator
    from jobs.data.sampling.mixture import Mixture
    from jobs.data.sampling.sequences import cut

    batch = recipe.batch
    pieces = cut([open_corpus(work / "corpora" / CORPUS)], "packed", "train", batch.sequence_length)
    samples = Samples(
        pieces, Mixture([(0, [Fraction(1)])]), batch.sequence_length, recipe.seed, steps * batch.sequences
    )
    return torch.utils.data.DataLoader(samples, batch.micro_batch, collate_fn=packed_collator)


def peak_memory() -> int:
    """The most that this process has held: of the GPU, or of RAM."""
    import resource

    import torch

    if torch.cuda.is_available():
        return int(torch.cuda.max_memory_allocated())
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


if __name__ == "__main__":
    sys.exit(main())
