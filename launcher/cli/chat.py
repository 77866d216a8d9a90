"""`launcher chat`: talk to what a run has made, or to any model."""

from typing import TYPE_CHECKING, Annotated, Literal

import typer

from launcher.cli.arguments import ClusterOption
from launcher.cli.verbosity import tell

if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import TypeVar

    from pydantic import BaseModel

    from launcher.cluster import Cluster
    from launcher.operate.chat_subject import FoundSubject
    from launcher.recipe.sections.chat import ChatRequest
    from launcher.recipe.sections.common import Resources
    from launcher.slurm.parse import Job

    Made = TypeVar("Made", bound=BaseModel)

_OPTIONS = {"gpus_per_node": "gpus", "cpus_per_task": "cpus", "max_new_tokens": "length"}
"""Options by the keys that they set, where both differ."""


def chat(
    target: Annotated[
        str,
        typer.Argument(
            metavar="RUN|MODEL",
            help="Run whose model to talk to, or a model or adapter: a name below `roots.models`, a folder, a Hugging "
            "Face id.",
        ),
    ],
    *,
    compare: Annotated[
        str | None, typer.Option(metavar="RUN|MODEL", help="A second model, which answers the same questions.")
    ] = None,
    web: Annotated[
        bool, typer.Option("--web", help="Serve a page that only the machine it runs on can reach (extra `chat`).")
    ] = False,
    port: Annotated[int | None, typer.Option(min=1024, max=65535, help="Port of the page; a free one by default.")] = (
        None
    ),
    here: Annotated[bool, typer.Option("--here", help="Run on this machine, without Slurm.")] = False,
    adapters: Annotated[
        list[str] | None,
        typer.Option("--adapter", metavar="RUN|ADAPTER", help="A further adapter to choose from; may be repeated."),
    ] = None,
    base: Annotated[
        str | None, typer.Option(metavar="MODEL", help="The model of an adapter whose files do not lead to it.")
    ] = None,
    template: Annotated[
        Literal["tokenizer", "chatml", "llama2", "llama3", "alpaca", "plain"] | None,
        typer.Option(help="Chat template, instead of the recipe's or the tokenizer's own."),
    ] = None,
    dtype: Annotated[
        Literal["bf16", "fp16", "fp32"] | None, typer.Option(help="Number format, instead of the recipe's.")
    ] = None,
    temperature: Annotated[float | None, typer.Option(help="0: greedy; `kind: generate` says more.")] = None,
    length: Annotated[int | None, typer.Option(help="Tokens of an answer at most.")] = None,
    seed: Annotated[int | None, typer.Option(help="Seed of sampling.")] = None,
    gpus: Annotated[int | None, typer.Option(min=0, help="GPUs to ask Slurm for; 1 by default.")] = None,
    cpus: Annotated[int | None, typer.Option(min=1, help="CPU cores; the recipe's by default.")] = None,
    memory: Annotated[str | None, typer.Option(metavar="SIZE", help="RAM, such as `64GB`; the recipe's.")] = None,
    time: Annotated[str, typer.Option(metavar="DURATION", help="Time limit of the allocation.")] = "1h",
    patience: Annotated[float, typer.Option(help="Minutes to wait for the node.", min=0)] = 10,
    cluster: ClusterOption = None,
) -> None:
    """Talk to the model of a run, or to any model, on a node or on this machine.

    Chat template and system prompt are those of the run's recipe. Nothing that is typed or answered is written to a
    file. Uses the allocation this shell is in, or gets one and releases it at the end.
    """
    import os

    from launcher.cli.views.wording import not_on
    from launcher.load import load_cluster
    from launcher.operate.chat import ChatPlan, choose_nodes, login_host
    from launcher.operate.chat import chat as carry_out
    from launcher.operate.chat_subject import SubjectOptions, find_subject

    profile = load_cluster(cluster)
    options = SubjectOptions(adapters or (), template, dtype, base)
    found = [find_subject(target, profile, options)]
    if compare:
        found.append(find_subject(compare, profile, SubjectOptions((), template, dtype)))
    request = _request(found, profile, web, port, login_host(here, profile), (temperature, length, seed))
    resources = _resources(found, profile, gpus, cpus, memory, time)
    plan = choose_nodes(ChatPlan(request, resources, here, patience * 60), profile)
    if plan.avoided.nodes:
        tell(not_on(plan.avoided.nodes))
    code = carry_out(
        plan,
        profile,
        lambda job_id: tell(f"allocation {job_id}"),
        _print_waiting,
    )
    if profile.executor == "slurm" and not here and "SLURM_JOB_ID" not in os.environ:
        tell("allocation released")
    raise typer.Exit(code)


def _request(
    found: "Sequence[FoundSubject]",
    profile: "Cluster",
    web: bool,
    port: int | None,
    host: str | None,
    said: tuple[float | None, int | None, int | None],
) -> "ChatRequest":
    from launcher.errors import LauncherError
    from launcher.recipe.sections.chat import ChatRequest

    if port and not web:
        raise LauncherError("--port: is the port of a page; write `--web` as well, or leave it out")
    temperature, length, seed = said
    changes = {"temperature": temperature, "max_new_tokens": length}
    decoding = found[0].decoding.model_dump() | {key: one for key, one in changes.items() if one is not None}
    if decoding["temperature"] == 0:
        decoding |= {"top_p": 1.0, "top_k": None}
    first_seed = seed if seed is not None else found[0].seed
    return _checked(
        ChatRequest,
        subjects=_distinct(found),
        decoding=decoding,
        device=profile.gpus.device,
        web=web,
        port=port,
        login_host=host,
        **({} if first_seed is None else {"seed": first_seed}),
    )


def _distinct(found: "Sequence[FoundSubject]") -> "tuple[dict[str, object], ...]":
    """Give two models of one name different titles."""
    subjects = [dict(one.subject) for one in found]
    if len({subject["title"] for subject in subjects}) < len(subjects):
        subjects = [subject | {"title": f"{subject['title']}-{place}"} for place, subject in enumerate(subjects, 1)]
    return tuple(subjects)


def _resources(
    found: "Sequence[FoundSubject]",
    profile: "Cluster",
    gpus: int | None,
    cpus: int | None,
    memory: str | None,
    time: str,
) -> "Resources":
    from launcher.recipe.sections.common import Resources

    recipes = [one.resources for one in found if one.resources]
    usual = min([1 if profile.gpus.device == "cuda" else 0, *(one.gpus_per_node for one in recipes)])
    most = max((one.memory for one in recipes if one.memory), key=lambda size: size.bytes, default=None)
    return _checked(
        Resources,
        gpus_per_node=usual if gpus is None else gpus,
        cpus_per_task=cpus or max([one.cpus_per_task for one in recipes], default=4),
        memory=memory or most,
        time=time,
    )


def _checked(section: "type[Made]", **values: object) -> "Made":
    """Make a section of what was typed.

    Raises:
        LauncherError: a value is not allowed; names the option.
    """
    from pydantic import ValidationError

    from launcher.errors import LauncherError

    try:
        return section.model_validate(values)
    except ValidationError as error:
        fault = error.errors(include_url=False)[0]
        name = str(fault["loc"][-1]) if fault["loc"] else ""
        said = fault["msg"].removeprefix("Value error, ")
        value = "" if said.startswith("`") else f"`{fault['input']}`: "
        raise LauncherError(f"--{_OPTIONS.get(name, name)}: {value}{said}") from None


def _print_waiting(job: "Job") -> None:
    from launcher.cli.views.wording import clock

    start = f", starts about {clock(job.start)}" if job.start else ""
    tell(f"job {job.id} {job.explanation}{start}")
