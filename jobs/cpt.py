"""kind: cpt - continued pretraining of a causal language model on prepared corpora."""

from functools import partial
from pathlib import Path

from transformers import PreTrainedModel

from jobs.data.corpus import Corpus, open_corpora
from jobs.data.mixture import describe_mixture, mixture_of
from jobs.data.pieces import cut, describe_loss
from jobs.data.samples import Samples, flattening_collator, packed_collator
from jobs.models.build import build_causal_lm, check_fits, weights_dtype
from jobs.models.new_tokens import new_tokens
from jobs.runtime.context import Context
from jobs.runtime.process_group import Group
from jobs.runtime.stop import StopFlag
from jobs.training import Work, carry_out, export_trained
from launcher.expansion import Expansion
from launcher.recipe import CptRecipe


def main(context: Context, stop: StopFlag) -> int:
    """Train until the recipe's length is reached or a stop is wanted.

    Args:
        context: The run, the recipe and this task's rank.
        stop: Tells whether this task was asked to stop.

    Returns:
        FINISHED with the export in place, or CONTINUE with everything saved.
    """
    recipe = context.recipe
    assert isinstance(recipe, CptRecipe)
    return carry_out(context, recipe, stop, partial(_plan, context))


def _plan(context: Context, recipe: CptRecipe, group: Group) -> Work:
    data, batch = recipe.data, recipe.batch
    folders, tokenizer = [context.corpus_path(corpus.name) for corpus in data.corpora], recipe.model.tokenizer_path
    corpora = open_corpora(folders, recipe.data_use, Path(context.model_path(tokenizer)))
    expansion = new_tokens(context, recipe)
    pieces = cut(corpora, data.packing, "train", batch.sequence_length)
    sizes = list(map(len, pieces))
    steps = batch.steps(recipe.schedule.length, recipe.samples_in_epoch(sizes))
    samples, mixture = steps * batch.sequences, mixture_of(data, sizes, steps, batch.sequences)
    names = tuple(corpus.name for corpus in data.corpora)
    remarks = describe_mixture(names, sizes, mixture, samples), describe_loss(data, pieces)
    return Work(
        steps=steps,
        samples=Samples(pieces, mixture, batch.sequence_length, recipe.seed, samples),
        collator=flattening_collator if recipe.model.attention == "flash" else packed_collator,
        build_model=partial(_build, context, recipe, corpora, expansion),
        new_tokens=expansion,
        export=partial(export_trained, context, recipe, group, names),
        remark="\n".join(filter(None, remarks)),
    )


def _build(context: Context, recipe: CptRecipe, corpora: list[Corpus], expansion: Expansion | None) -> PreTrainedModel:
    path = context.model_path(recipe.model.path)
    model = build_causal_lm(recipe.model, path, recipe.seed, weights_dtype(recipe), expansion)
    check_fits(model, recipe.batch, (corpus.manifest for corpus in corpora))
    return model
