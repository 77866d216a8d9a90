"""kind: sft - supervised fine-tuning: a language model learns the answers of conversations."""

from collections.abc import Sequence
from fractions import Fraction
from functools import partial

from transformers import TrainerCallback

from jobs.data.chat.samples import ChatSamples, padding_collator
from jobs.data.chat.store import Sequences, open_sequences
from jobs.data.chat.tokenised_source import finished_source, make_examples, renderer_of
from jobs.data.sampling.dataset import flattening_collator
from jobs.data.sampling.mixture import Mixture
from jobs.data.sampling.order import IndependentDraws, Order, Places
from jobs.models.build import build_causal_lm, check_positions, check_rows, let_stop, weights_dtype
from jobs.models.embeddings import new_tokens
from jobs.rank.context import Context
from jobs.rank.process_group import wait_for_main
from jobs.train.heldout_loss import HeldOutLoss, mean_answer_loss, row_losses
from jobs.train.neftune import EmbeddingNoise
from jobs.train.run import training_run
from launcher.recipe import SftRecipe


def main(context: Context) -> None:
    """Train until the recipe's length is reached, and export the model.

    Raises:
        StopRequested: a stop was asked for before the end, and everything is saved.
    """
    with training_run(context, SftRecipe) as run:
        if run.is_exported:
            return
        recipe, batch = run.recipe, run.recipe.batch

        names, folder = [source.name for source in recipe.data.sources], context.run.examples
        wait_for_main(run.group, partial(make_examples, context, recipe, folder))
        # Rank 0's word instead of the records' files: other nodes may not see them yet.
        prepared = [one for name in names if (one := run.group.from_main(finished_source(folder, name)))]
        sources = open_sequences(folder, prepared, "train")
        held_out = _in_order(open_sequences(folder, prepared, "validation"))
        epoch = recipe.samples_in_epoch(list(map(len, sources)))
        steps, interval = (batch.steps(length, epoch) for length in (recipe.schedule.length, recipe.evaluate))
        samples = ChatSamples(sources, _order(recipe, sources), steps * batch.sequences)

        is_flash = recipe.model.attention == "flash"
        run.begin(steps, epoch, per_device_eval_batch_size=1 if is_flash else batch.least_micro_batch)
        renderer, expansion = renderer_of(context, recipe), new_tokens(context, recipe)
        path = context.model_path(recipe.model.path)
        model = build_causal_lm(recipe.model, path, recipe.seed, weights_dtype(recipe), expansion)
        check_positions(model, batch, recipe.virtual_tokens)
        check_rows(model.config.get_text_config().vocab_size, max(renderer.tokenizer.get_vocab().values()) + 1)
        let_stop(model, renderer.end_of_answer)

        least = batch.sequence_length if recipe.pads_to_full_length else 0
        during = []
        if recipe.during:
            from jobs.kinds.during import evaluation_during  # needs the extra `eval`

            during = evaluation_during(run, recipe.during, epoch)
        trainer = run.trainer(
            run.adapt(model, new_tokens=expansion),
            samples,
            flattening_collator if is_flash else padding_collator(renderer.end_of_answer, least),
            callbacks=(*_callbacks(recipe, interval if held_out else None), *during),
            tokens_per_sequence=_mean_tokens(recipe, sources),
            eval_dataset=held_out,
            preprocess_logits_for_metrics=row_losses,
            compute_metrics=mean_answer_loss,
        )
        run.train(trainer, during)
        run.export(trainer, names, chat_template=renderer.template)


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
