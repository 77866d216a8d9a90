"""What `launcher watch` shows: a line for each run, and below them everything about the chosen one."""

import io
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from rich.console import Console
from rich.text import Text

from launcher.cli.views.sparkline import sparkline
from launcher.cli.views.status_view import cost_text, progress_text, state_text
from launcher.cli.views.wording import clock, duration, node_list, quantity
from launcher.monitor.status import RunStatus
from launcher.monitor.watch import Look, WatchedRun

KEYS = "up/down choose   l log   s stop   r resume   q quit"
_BAR = 20
_LEAST_RUNS = 3
_FEW_LINES = 3
"""Of the log, where the other runs are shown, too."""
_PICTURE = 20
"""Lines for everything but the list of runs."""
_NAME = 28
_CONTROL = re.compile(r"\x1b\[[0-?]*[ -/]*[@-~]|\x1b\][^\x07\x1b]*(?:\x07|\x1b\\)?|[\x00-\x08\x0b-\x1f\x7f-\x9f]")
"""Colours and cursor movements that a program wrote into its log would move our own."""


@dataclass
class WatchState:
    """What the person at the keyboard has chosen."""

    folder: str = ""
    """Of the chosen run; empty = the first."""
    shows_log: bool = False
    question: str = ""
    """Asked at the bottom, instead of the list of keys."""
    message: str = ""
    """What the last command came to."""

    def place(self, look: Look) -> int:
        """Return the place of the chosen run."""
        folders = [one.status.folder for one in look.runs]
        return folders.index(self.folder) if self.folder in folders else 0

    def move(self, look: Look, by: int) -> None:
        """Choose another run, round and round."""
        if look.runs:
            self.folder = look.runs[(self.place(look) + by) % len(look.runs)].status.folder


def frame(look: Look, state: WatchState, width: int, height: int, is_unicode: bool = True) -> list[Text]:
    """Draw the screen.

    Args:
        look: The runs.
        state: What the person has chosen.
        width: Columns.
        height: Lines.
        is_unicode: Whether the terminal can show bars.
    """
    foot = [_cut(line, width) for line in (*_notes(look), *_foot(state))]
    shown = body(look, state, width, height - len(foot), is_unicode)
    return [*shown, *(Text() for _ in range(height - len(foot) - len(shown))), *foot]


def picture(look: Look, width: int, is_unicode: bool = True) -> list[Text]:
    """Draw one picture for a reader without keys, as long as it has to be."""
    return [*body(look, WatchState(), width, len(look.runs) + _PICTURE, is_unicode), *_notes(look)]


def body(look: Look, state: WatchState, width: int, height: int, is_unicode: bool) -> list[Text]:
    """Draw all runs and the details of the chosen one; the end of its log fills what room is left."""
    lines = [*_head(look, width), Text()]
    if look.runs:
        chosen = look.runs[state.place(look)]
        details = [*_details(chosen, width, is_unicode)]
        room = height - len(lines) - len(details) - 1
        if len(look.runs) > 1 and not state.shows_log:
            shown = _rows(look, state, max(_LEAST_RUNS, room - 1 - _FEW_LINES), is_unicode)
            lines += [*shown, Text()]
            room -= len(shown) + 1
        lines += [*details, Text()]
        count = max(1, room if state.shows_log else min(room, _FEW_LINES))
        lines += [Text(clean(line), "dim") for line in chosen.lines[-count:]]
    return [_cut(line, width) for line in lines[:height]]


def to_ansi(lines: Sequence[Text], width: int, color_system: str | None) -> list[str]:
    """Write lines with the escape sequences of their colours."""
    out = Console(
        file=io.StringIO(), width=width, force_terminal=True, highlight=False,
        color_system=color_system, legacy_windows=False,  # type: ignore[arg-type]  # one of rich's names
    )  # fmt: skip
    written = []
    for line in lines:
        with out.capture() as capture:
            out.print(line, end="", soft_wrap=True)
        written.append(capture.get())
    return written


def to_svg(look: Look, width: int, title: str) -> str:
    """Draw one picture as a file for a browser, which loads nothing from other hosts."""
    out = Console(record=True, width=width, file=io.StringIO(), force_terminal=True, highlight=False)
    for line in [*picture(look, width), Text(), *_foot(WatchState())]:
        out.print(line, soft_wrap=True)
    drawn = out.export_svg(title=title, unique_id="watch")
    return re.sub(r"@font-face \{.*?\}\s*", "", drawn, flags=re.DOTALL)


def clean(text: str) -> str:
    """Leave out what would move the cursor or change colours."""
    return _CONTROL.sub("", text).expandtabs(4)


def _cut(line: Text, width: int) -> Text:
    line.truncate(width, overflow="ellipsis")
    return line


def _head(look: Look, width: int) -> Iterator[Text]:
    states = [one.status.state for one in look.runs]
    counted = ", ".join(f"{states.count(state)} {state}" for state in dict.fromkeys(states)) or "no run to watch"
    now = clock(look.time)
    yield Text.assemble((counted, "bold"), " " * max(2, width - len(counted) - len(now)), (now, "dim"))


def _notes(look: Look) -> list[Text]:
    return [Text(f"note: {one}", "dim") for one in look.notes[:2]]


def _foot(state: WatchState) -> Iterator[Text]:
    if state.message:
        yield Text(clean(state.message), "yellow")
    yield Text(state.question, "bold reverse") if state.question else Text(KEYS, "dim")


def _rows(look: Look, state: WatchState, room: int, is_unicode: bool) -> list[Text]:
    place = state.place(look)
    first = max(0, min(place - room // 2, len(look.runs) - room))
    shown = look.runs[first : first + room]
    names = min(_NAME, max(len(one.status.name) for one in shown))
    rows = []
    for number, one in enumerate(shown, first):
        status = one.status
        mark, style = (">", "bold") if number == place else (" ", "")
        row = Text.assemble((f"{mark} {status.id:<6}  {_short(status.name, names):<{names}}  ", style))
        row.append_text(Text.from_markup(f"{state_text(status)}{' ' * (9 - len(status.state))}"))
        row.append_text(bar(fraction(status), _BAR, is_unicode))
        row.append(f" {_share(status):>4}  {_brief(status)}")
        rows.append(row)
    return rows


def _short(name: str, width: int) -> str:
    shown = Text(clean(name))
    shown.truncate(width, overflow="ellipsis")
    return shown.plain


def fraction(one: RunStatus) -> float | None:
    """How much of a run is done; None as long as that is not known."""
    if one.state == "finished":
        return 1.0
    done, total = (one.bytes_done, one.bytes_total) if one.bytes_total else (one.step, one.total_steps)
    return min(1.0, (done or 0) / total) if total else None


def bar(share: float | None, width: int, is_unicode: bool) -> Text:
    """Draw how much is done."""
    full, empty = ("━", "─") if is_unicode else ("#", "-")
    done = round((share or 0.0) * width)
    return Text.assemble((full * done, "green"), (empty * (width - done), "dim"))


def _share(one: RunStatus) -> str:
    share = fraction(one)
    return "" if share is None else f"{int(share * 100)}%"


def _brief(one: RunStatus) -> str:
    loss = "" if one.loss is None else f"loss {one.loss:.4g}"
    rate = f"{quantity(one.tokens_per_second)} tokens/s" if one.tokens_per_second else ""
    left = f"{duration(one.eta_seconds)} left" if one.eta_seconds is not None else ""
    why = "" if one.state in ("running", "finished") else clean(one.why)
    return ", ".join(filter(None, [left, loss, rate, why]))


def _details(one: WatchedRun, width: int, is_unicode: bool) -> Iterator[Text]:
    status = one.status
    rehearsal = " (rehearsal)" if status.rehearsal else ""
    title = Text.assemble((clean(status.name), "bold"), f"  {status.id}  {status.kind}{rehearsal}  ")
    yield title.append_text(Text.from_markup(f"{state_text(status)} [dim]({status.source})[/]"))
    left = f"{duration(status.eta_seconds)} left" if status.eta_seconds is not None else ""
    done = Text()
    if fraction(status) is not None:
        done = Text.assemble(bar(fraction(status), 2 * _BAR, is_unicode), f" {_share(status)}   {left}")
    curve = sparkline([loss for _, loss in one.losses], max(2, min(2 * _BAR, width - 30))) if is_unicode else ""
    losses = f"{curve}  {one.losses[0][1]:.4g} to {one.losses[-1][1]:.4g}" if curve else ""
    facts: list[tuple[str, str | Text]] = [
        ("state", clean(status.why)),
        ("done", done),
        ("step", progress_text(status)),
        ("loss", losses),
        ("job", f"{status.job_id} on {node_list(status.nodes)}" if status.nodes else status.job_id),
        ("next", next_event(status)),
        ("cost", cost_text(status, one.goodput)),
    ]
    for label, text in facts:
        if text:
            yield Text.assemble((f"  {label:<6}", "dim"), text)


def next_event(one: RunStatus) -> str:
    """Say what happens next by itself: a start, or what the time limit brings."""
    if one.state in ("queued", "requeued") and one.start_estimate:
        return f"starts about {clock(one.start_estimate)}, as Slurm estimates now"
    if one.time_limit is None or one.is_over:
        return ""
    saves = f"asked to save about {clock(one.saves_at)}, " if one.saves_at else ""
    return f"{saves}time limit at {clock(one.time_limit)}"
