"""`launcher compare PIPELINE`: the scores of a whole system, and what its authors report."""

from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING

from launcher.cli.json_output import print_json

if TYPE_CHECKING:
    from launcher.pipeline.record import Pipeline
    from launcher.scores.published import PublishedTable


def compare_pipeline(
    name: str, cluster: str | None, published: str | None, as_json: bool, others: Sequence[str]
) -> bool:
    """Print the scores of a pipeline's stages; False if there is no such pipeline.

    Args:
        name: What the user wrote.
        cluster: The profile.
        published: The system whose published scores are shown, too.
        as_json: Print JSON instead of a table.
        others: Options for other forms, which there are not.

    Raises:
        LauncherError: it has no scores, or there are `others`.
    """
    from launcher.errors import RunError
    from launcher.load import load_cluster
    from launcher.pipeline.find import find_pipeline
    from launcher.pipeline.scores import read_stage_scores

    pipeline = find_pipeline(load_cluster(cluster), name)
    if pipeline is None:
        return False
    refuse_other_forms(f"`{name}` is a pipeline", others)
    scores, notes = read_stage_scores(pipeline)
    if not scores:
        raise RunError(f"`{name}`: no stage has finished with scores; `launcher status {name}` shows its stages")
    quoted = _quote(pipeline, published)
    if as_json:
        plain = {"pipeline": pipeline.record.name, "scores": [asdict(one) for one in scores], "notes": notes}
        print_json({**plain, "published": quoted and asdict(quoted)}, "pipeline")
        return True
    from launcher.cli.views.published_view import print_published, print_stage_scores

    print_stage_scores(pipeline.record.name, scores, notes)
    if quoted is not None:
        print_published(quoted)
    return True


def refuse_other_forms(what: str, options: Sequence[str]) -> None:
    """Refuse forms that scores of a pipeline or a sweep do not have.

    Args:
        what: Whose scores they are, for the message.
        options: What the user asks for.

    Raises:
        LauncherError: there are some.
    """
    from launcher.errors import LauncherError

    if options:
        raise LauncherError(f"{options[0]}: {what}, which is shown as a table or with --json; name runs of `evaluate`")


def _quote(pipeline: "Pipeline", published: str | None) -> "PublishedTable | None":
    """Read the published table that is asked for, else the one of the pipeline's name, if there is one."""
    from launcher.scores.published import published_systems, read_published

    system = pipeline.record.name.removesuffix("-rehearsal").replace("-", "_")
    if published is None and system not in published_systems():
        return None
    return read_published(published or system)
