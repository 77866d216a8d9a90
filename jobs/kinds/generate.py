"""kind: generate - a model writes texts: load, read prompts, work on batches, join, publish.

The prompts are sorted by length and cut into numbered batches before the work begins. A run that was stopped goes on
with the batches that are missing; array elements share them; the run that they work for makes what is left and joins
the texts. With transformers none of this changes a byte of them.
"""

from contextlib import closing
from functools import partial

from jobs.evaluation.batches import BatchFolder, carry_out, count_items
from jobs.evaluation.engines import open_engine, open_model
from jobs.evaluation.generation_batches import GenerationProgress, batches_of
from jobs.evaluation.prompt_encoder import PromptEncoder
from jobs.evaluation.prompt_files import read_prompts
from jobs.evaluation.publish_generations import (
    are_published,
    describe_generations,
    publish_generations,
    read_generations,
)
from jobs.rank.context import Context
from jobs.rank.process_group import process_group, wait_for_main
from jobs.rank.stop_flag import noting_stop
from jobs.train.tracking import open_tracker
from launcher.recipe import GenerateRecipe
from launcher.run.ledger import append_event


def main(context: Context) -> None:
    """Make the texts that the recipe describes, or this run's share of their batches.

    Raises:
        LauncherError: the model or the prompts cannot be used.
        StopRequested: a stop was asked for before that was done; what is finished is kept.
    """
    recipe, run, share = context.recipe, context.run, context.record.share
    assert isinstance(recipe, GenerateRecipe)
    with process_group(context) as group:
        owner = run.group if share else run
        if not group.from_main(are_published(owner.outputs)):
            model = open_model(context, recipe, group)
            encoder = PromptEncoder(model, recipe.data.chat, "data", recipe.decoding.max_new_tokens, recipe.too_long)
            prompts = read_prompts(context, recipe, encoder)
            requests = [one.request for one in prompts.prompts]
            engine = open_engine(context, recipe, model, requests, encoder.end_of_turn)
            batches = batches_of("texts", engine)
            folder = BatchFolder(owner.batches, batches)
            counted = count_items(context, [folder])
            with noting_stop(context), closing(engine), GenerationProgress(context, *counted, engine) as progress:
                carry_out(context, group, folder, batches, progress)
            if share is None:
                publish = partial(publish_generations, context, recipe, model, prompts, folder)
                wait_for_main(group, publish, finishes=True)
        if not group.is_main:
            return
        if share is None:
            made = read_generations(owner.outputs)
            print(describe_generations(made), flush=True)
            tracker = open_tracker(context, recipe.tracking)
            tracker.log_numbers("generate", {"items": made.items, "tokens": made.tokens, **made.finish})
            tracker.close(finished=True)
        append_event(run.ledger, context.attempt, reason="finished", source="generate")
