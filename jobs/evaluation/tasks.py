"""From the tasks of a recipe to prepared ones."""

import glob
from collections.abc import Sequence

from jobs.evaluation.choice import prepare_choice
from jobs.evaluation.classification import prepare_classification
from jobs.evaluation.generated_answers import prepare_generate
from jobs.evaluation.judgements import prepare_judgements
from jobs.evaluation.loaded_model import LoadedModel
from jobs.evaluation.perplexity import prepare_perplexity
from jobs.evaluation.report import PreparedTask, TaskSettings
from jobs.evaluation.reward import prepare_reward
from jobs.rank.context import Context
from launcher.errors import LauncherError
from launcher.recipe.sections.classification_task import ClassificationTask
from launcher.recipe.sections.evaluation_tasks import ChoiceTask
from launcher.recipe.sections.generation_task import AnyTask, GenerateTask
from launcher.recipe.sections.judgement_task import JudgementTask
from launcher.recipe.sections.perplexity_task import PerplexityTask
from launcher.recipe.sections.reward_task import RewardTask


def prepare_tasks(
    context: Context,
    recipe: TaskSettings,
    tasks: Sequence[AnyTask],
    model: LoadedModel | None,
    *,
    prefix: str = "",
    may_be_missing: bool = False,
) -> list[PreparedTask]:
    """Read, word and encode the items of all tasks.

    Args:
        context: The run.
        recipe: The section that the tasks stand in.
        tasks: The tasks.
        model: What is evaluated; None where no task needs one.
        prefix: Of the tasks' keys in the recipe.
        may_be_missing: Leave out tasks whose files are not there.

    Raises:
        LauncherError: the items of a task cannot be used.
    """
    prepared: list[PreparedTask] = []
    for place, task in enumerate(tasks):
        key = f"{prefix}tasks.{place}"
        if may_be_missing and not _has_files(context, task, key):
            print(f"{key}: left out, since its files are not there: {task.name}", flush=True)
        else:
            prepared.append(_prepare(context, recipe, task, key, model))
    if not prepared:
        raise LauncherError("tasks: no task has its files; put some below the cluster profile's `roots.data`")
    return prepared


def _prepare(
    context: Context, recipe: TaskSettings, task: AnyTask, key: str, model: LoadedModel | None
) -> PreparedTask:
    if isinstance(task, ClassificationTask):
        return prepare_classification(context, recipe, task, key)
    if isinstance(task, JudgementTask):
        return prepare_judgements(context, recipe, task, key)
    assert model is not None, "the recipe's validation asks for one"
    match task:
        case ChoiceTask():
            return prepare_choice(context, recipe, task, key, model)
        case GenerateTask():
            return prepare_generate(context, recipe, task, key, model)
        case PerplexityTask():
            return prepare_perplexity(context, recipe, task, key, model)
        case RewardTask():
            return prepare_reward(context, recipe, task, key, model)


def _has_files(context: Context, task: AnyTask, key: str) -> bool:
    files = [one.name for one in task.inputs(key) if one.type == "files"]
    return all(any(glob.iglob(context.data_glob(name), recursive=True)) for name in files)
