"""kind: sft - supervised fine-tuning: a language model learns the answers of conversations."""

from collections.abc import Sequence
from fractions import Fraction
from functools import partial

from transformers import PreTrainedModel, TrainerCallback

from jobs.data.chat.making import finished_source, make_examples, renderer_of
from jobs.data.chat.render import Renderer
from jobs.data.chat.samples import ChatSamples, padding_collator
from jobs.data.chat.store import Sequences, open_sequences
from jobs.data.mixture import Mixture
from jobs.data.order import IndependentDraws, Order, Places
from jobs.data.samples import flattening_collator
from jobs.models.build import build_causal_lm, check_positions, weights_dtype
from jobs.models.new_tokens import new_tokens
from jobs.models.noise import EmbeddingNoise
from jobs.runtime.context import Context
from jobs.runtime.heldout import HeldOutLoss, answer_losses, mean_answer_loss
from jobs.runtime.process_group import Group, wait_for_main
from jobs.runtime.stop import StopFlag
from jobs.training import Work, carry_out, export_trained
from launcher.errors import LauncherError
from launcher.expansion import Expansion
from launcher.recipe import SftRecipe


def main(context: Context, stop: StopFlag) -> int:
    """Train until the recipe's length is reached or a stop is wanted.

    Args:
        context: The run, the recipe and this task's rank.
        stop: Tells whether this task was asked to stop.

    Returns:
        FINISHED with the export in place, or CONTINUE with everything saved.
    """
    recipe = context.recipe
    assert isinstance(recipe, SftRecipe)
    return carry_out(context, recipe, stop, partial(_plan, context))


def _plan(context: Context, recipe: SftRecipe, group: Group) -> Work:
    folder, names = context.run.examples, tuple(source.name for source in recipe.data.sources)
    wait_for_main(group, partial(make_examples, context, recipe, folder))
    # Rank 0's word instead of the records' files: other nodes may not see them yet.
    prepared = [one for name in names if (one := group.from_main(finished_source(folder, name)))]
    sources = open_sequences(folder, prepared, "train")
    epoch = recipe.samples_in_epoch(list(map(len, sources)))
    steps, interval = (recipe.batch.steps(length, epoch) for length in (recipe.schedule.length, recipe.evaluate))
    renderer, expansion = renderer_of(context, recipe), new_tokens(context, recipe)
    is_flash = recipe.model.attention == "flash"
    held_out = _in_order(open_sequences(folder, prepared, "validation"))
    return Work(
        steps=steps,
        samples=ChatSamples(sources, _order(recipe, sources), steps * recipe.batch.sequences),
        collator=flattening_collator if is_flash else padding_collator(renderer.end_of_answer),
        build_model=partial(_build, context, recipe, renderer, expansion),
        new_tokens=expansion,
        export=partial(export_trained, context, recipe, group, names, chat_template=renderer.template),
        callbacks=_callbacks(recipe, interval if held_out else None),
        arguments={"per_device_eval_batch_size": 1 if is_flash else recipe.batch.least_micro_batch},
        trainer={
            "eval_dataset": held_out,
            "preprocess_logits_for_metrics": answer_losses,
            "compute_metrics": mean_answer_loss,
        },
        tokens_per_sequence=_mean_tokens(recipe, sources),
    )


def _callbacks(recipe: SftRecipe, interval: int | None) -> tuple[TrainerCallback, ...]:
    noise = () if recipe.neftune_alpha is None else (EmbeddingNoise(recipe.neftune_alpha),)
    return noise if interval is None else (*noise, HeldOutLoss(interval))


def _in_order(sources: Sequence[Sequences]) -> ChatSamples | None:
    """Each sequence once; None if there are none."""
    sizes = list(map(len, sources))
    mixture = Mixture([(0, [Fraction(size) for size in sizes])])
    order = Order(mixture, sizes, [f"{source.name}/validation" for source in sources], 0) if sizes else None
    return ChatSamples(sources, order, sum(sizes)) if order else None


def _order(recipe: SftRecipe, sources: Sequence[Sequences]) -> Places:
    sizes = list(map(len, sources))
    shares = recipe.data.shares(sizes)
    if recipe.data.draws == "independent":
        return IndependentDraws(shares, sizes, recipe.seed)
    return Order(Mixture([(0, shares)]), sizes, [source.name for source in sources], recipe.seed)


def _mean_tokens(recipe: SftRecipe, sources: Sequence[Sequences]) -> float:
    """Return the tokens that a sequence of the mixture has on average."""
    shares = recipe.data.shares(list(map(len, sources)))
    tokens = [Fraction(source.tokens, len(source)) * share for source, share in zip(sources, shares, strict=True)]
    return float(sum(tokens) / sum(shares))


def _build(context: Context, recipe: SftRecipe, renderer: Renderer, expansion: Expansion | None) -> PreTrainedModel:
    path = context.model_path(recipe.model.path)
    model = build_causal_lm(recipe.model, path, recipe.seed, weights_dtype(recipe), expansion)
    check_positions(model, recipe.batch)
    tokens, rows = max(renderer.tokenizer.get_vocab().values()) + 1, model.config.get_text_config().vocab_size
    if tokens > rows:
        raise LauncherError(f"model.path: the tokenizer has {tokens} tokens, the model {rows}; use the model's own")
    _let_stop(model, renderer.end_of_answer)
    return model


def _let_stop(model: PreTrainedModel, token: int) -> None:
    """Make generation stop, too, where the model learns that an answer ends."""
    settings = model.generation_config
    known = settings.eos_token_id
    stops = known if isinstance(known, list) else [known] if known is not None else []
    if token not in stops:
        settings.eos_token_id = [token, *stops]
        # Published settings may contradict each other, and those that were changed are not saved then.
        settings._original_object_hash = hash(settings)
