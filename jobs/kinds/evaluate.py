"""kind: evaluate - a model answers tasks: load, word, work on batches, score, publish.

The items of each task are cut into numbered batches before the work begins. A run that was stopped goes on with the
batches that are missing; array elements share them; the run that they work for makes what is left and the scores.
"""

from functools import partial

from jobs.evaluation.batches import BatchFolder, carry_out, count_items
from jobs.evaluation.contamination import training_data
from jobs.evaluation.item_progress import ItemProgress
from jobs.evaluation.loaded_model import load_model
from jobs.evaluation.publish import describe, is_published, publish_evaluation, read_items
from jobs.evaluation.tasks import prepare_tasks
from jobs.evaluation.trainings import trainings_of
from jobs.rank.context import Context
from jobs.rank.process_group import process_group, wait_for_main
from jobs.rank.stop_flag import noting_stop
from jobs.train.tracking import open_tracker
from launcher.artifacts.scores import read_scores
from launcher.recipe import EvaluateRecipe
from launcher.run.ledger import append_event


def main(context: Context) -> None:
    """Make the scores that the recipe describes, or this run's share of their batches.

    Raises:
        LauncherError: the model or the items of a task cannot be used.
        StopRequested: a stop was asked for before that was done; what is finished is kept.
    """
    recipe, run, share = context.recipe, context.run, context.record.share
    assert isinstance(recipe, EvaluateRecipe)
    with process_group(context) as group:
        owner = run.group if share else run
        if not group.from_main(is_published(owner.outputs)):
            model = load_model(context, recipe.model, group, recipe.rewards) if recipe.model else None
            tasks = prepare_tasks(
                context, recipe, recipe.tasks, model, may_be_missing=recipe.missing_files == "leave_out"
            )
            folders = [BatchFolder(owner.batches, task.batches) for task in tasks]
            with noting_stop(context), ItemProgress(context, *count_items(context, folders)) as progress:
                for task, folder in zip(tasks, folders, strict=True):
                    carry_out(context, group, folder, task.batches, progress)
            if share is None:
                reports = {
                    task.batches.name: task.report(folder.read()) for task, folder in zip(tasks, folders, strict=True)
                }
                described, trained_on = model.record if model else {}, training_data(context, recipe.model)
                left_out = [task.name for task in recipe.tasks if task.name not in reports]
                trainings = trainings_of(context, recipe.model)
                publish = partial(publish_evaluation, context, described, trained_on, reports, left_out, trainings)
                wait_for_main(group, publish, finishes=True)
        if not group.is_main:
            return
        if share is None:
            scores = read_scores(owner.outputs)
            print(describe(scores), flush=True)
            tracker = open_tracker(context, recipe.tracking)
            items = read_items(owner.outputs) if recipe.data_use == "open" else None
            tracker.log_scores({name: task.scores for name, task in scores.tasks.items()}, items)
            tracker.close(finished=True)
        append_event(run.ledger, context.attempt, reason="finished", source="evaluate")
