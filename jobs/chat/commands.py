"""What people type after a `/`: commands, their help, and what they change."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from jobs.chat.dialogue import Dialogue
from jobs.chat.settings import NUMBERS, ChatSettings
from launcher.errors import LauncherError
from launcher.recipe.base import nearest_first


@dataclass
class ChatState:
    """What commands work on: the dialogues, which all hear the same questions, and how they answer."""

    dialogues: Sequence[Dialogue]
    settings: ChatSettings
    asked: str | None = None
    """The newest question."""
    times: int = 0
    """How often it was asked before."""


@dataclass(frozen=True)
class Command:
    """One command."""

    usage: str
    help: str
    carry_out: Callable[[ChatState, str], Iterator[str]] | None = None
    """Takes what stands behind its name, and gives lines to show; None: the terminal's own."""


def run_command(state: ChatState, line: str) -> Iterator[str]:
    """Carry out a line such as `/length 100`, and give what to show.

    Raises:
        LauncherError: there is no such command, or it cannot be carried out.
    """
    name, _, rest = line.removeprefix("/").partition(" ")
    if name not in COMMANDS:
        names = nearest_first(name, COMMANDS)
        raise LauncherError(f"there is no command `/{name}`; there are {names}. Write `//` to say something with a `/`")
    carry_out = COMMANDS[name].carry_out
    if carry_out is None:
        raise LauncherError(f"/{name}: write nothing behind it")
    yield from carry_out(state, rest.strip())


def _help(_state: ChatState, _rest: str) -> Iterator[str]:
    width = max(len(command.usage) for command in COMMANDS.values())
    for command in COMMANDS.values():
        yield f"{command.usage:{width}}  {command.help}"
    yield f"{'Ctrl-C':{width}}  stops an answer; where nothing is typed, it leaves"


def _reset(state: ChatState, _rest: str) -> Iterator[str]:
    for dialogue in state.dialogues:
        dialogue.reset()
    state.asked = None
    yield "the conversation starts anew"


def _system(state: ChatState, text: str) -> Iterator[str]:
    for dialogue in state.dialogues:
        if text:
            dialogue.set_system_prompt(None if text == "none" else text)
        title = f"{dialogue.model.title}: " if len(state.dialogues) > 1 else ""
        yield f"{title}system prompt: {dialogue.system_prompt or 'none'}"


def _history(state: ChatState, _rest: str) -> Iterator[str]:
    for dialogue in state.dialogues:
        if dialogue.system_prompt:
            yield f"system: {dialogue.system_prompt}"
        for turn in dialogue.turns:
            yield f"{'you' if turn['role'] == 'user' else dialogue.model.title}: {turn['content']}"
        if not dialogue.turns:
            yield "nothing was said yet"


def _adapter(state: ChatState, name: str) -> Iterator[str]:
    having = [dialogue for dialogue in state.dialogues if name in dialogue.model.choices]
    if name and not having:
        known = nearest_first(name, {one for dialogue in state.dialogues for one in dialogue.model.choices})
        raise LauncherError(f"there is no adapter `{name}`; there are {known}")
    for dialogue in having:
        dialogue.model.use(name)
    for dialogue in state.dialogues:
        model = dialogue.model
        others = ", ".join(f"`{one}`" for one in model.choices if one != model.choice)
        yield f"{model.title}: adapter `{model.choice}`" + (f"; there are also {others}" if others else "")


def _settings(state: ChatState, _rest: str) -> Iterator[str]:
    yield from state.settings.lines()
    for dialogue in state.dialogues:
        yield f"{dialogue.model.title}: {dialogue.model.description}, adapter `{dialogue.model.choice}`"


def _number(name: str) -> Callable[[ChatState, str], Iterator[str]]:
    def carry_out(state: ChatState, text: str) -> Iterator[str]:
        if text:
            state.settings = state.settings.changed_to(name, text)
        yield next(line for line in state.settings.lines() if line.startswith(f"{name} "))

    return carry_out


_NUMBER_HELP = {
    "temperature": "0: the most likely token each time; higher: more variety",
    "length": "tokens of an answer at most",
    "top_p": "sample from the most likely tokens that have this probability together",
    "top_k": "sample from this many of the most likely tokens; `all`",
    "penalty": "1: off; higher: fewer repetitions",
    "seed": "another number draws other answers",
}

COMMANDS = {
    "help": Command("/help", "shows this", _help),
    "reset": Command("/reset", "starts the conversation anew", _reset),
    "history": Command("/history", "shows what was said", _history),
    "system": Command("/system [TEXT]", "shows or sets the system prompt; `none` removes it", _system),
    "adapter": Command("/adapter [NAME]", "shows the adapters, or takes another one", _adapter),
    **{name: Command(f"/{name} [NUMBER]", _NUMBER_HELP[name], _number(name)) for name in NUMBERS},
    "settings": Command("/settings", "shows all settings", _settings),
    "again": Command("/again", "asks the last question again; at a temperature above 0 the answer differs"),
    "leave": Command("/leave", "ends the program, as Ctrl-D does"),
}
"""By their names, as `/help` lists them."""
