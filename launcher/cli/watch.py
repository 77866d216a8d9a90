"""`launcher watch`: how runs are doing, again and again, with keys to act on them."""

import sys
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from launcher.cli.arguments import ClusterOption, JsonOption, WhereOption, refuse_where
from launcher.cli.json_output import print_json
from launcher.cli.verbosity import tell

if TYPE_CHECKING:
    from collections.abc import Sequence

    from launcher.cli.live_screen import LiveScreen
    from launcher.cluster import Cluster
    from launcher.monitor.watch import Look, RunWatch
    from launcher.run.paths import RunDir

_LOG_LINES = 200
_LOOK_SECONDS = 0.1
"""How often it is checked whether an answer is there, or the window has another size."""
_WIDTH, _PICTURE_WIDTH = 120, 100
"""Columns of a single picture that goes to no terminal, and to a file."""


def watch(
    runs: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[RUN...]",
            help="Runs, sweeps and pipelines; all runs that are not over by default.",
            show_default=False,
        ),
    ] = None,
    *,
    where: WhereOption = None,
    once: Annotated[bool, typer.Option("--once", help="Print one picture; the default without a terminal.")] = False,
    interval: Annotated[float, typer.Option(help="Seconds between two questions to Slurm.", min=1)] = 5,
    svg: Annotated[
        Path | None, typer.Option("--svg", metavar="FILE", help="Write one picture to a file that browsers show.")
    ] = None,
    as_json: JsonOption = False,
    cluster: ClusterOption = None,
) -> None:
    """Watch runs, with keys to choose one, read its log, stop it and resume it.

    Slurm is asked once for all of them each time. A run that is stopped saves a checkpoint first.
    """
    from launcher.errors import LauncherError
    from launcher.load import load_cluster
    from launcher.monitor.watch import RunWatch

    if svg is not None and not svg.parent.is_dir():
        raise LauncherError(f"--svg {svg}: there is no folder `{svg.parent}`; make it, or write another path")
    profile = load_cluster(cluster)
    watched = RunWatch(profile, _chooser(profile, runs or [], where), _LOG_LINES)
    if as_json:
        look = watched.look()
        found = [{**asdict(one.status), "goodput": asdict(one.goodput), "lines": one.lines[-1:]} for one in look.runs]
        print_json({"time": look.time, "runs": found, "notes": look.notes})
    elif svg is not None:
        _save(watched.look(), svg, profile.name)
    elif once or not (sys.stdin.isatty() and sys.stdout.isatty()):
        _print_once(watched.look())
    else:
        _Live(watched, profile, interval).run()


def _chooser(profile: "Cluster", names: "Sequence[str]", where: list[str] | None) -> "Callable[[], Sequence[RunDir]]":
    """Return what lists the runs that are named; unknown names are refused now."""
    from launcher.monitor.find import list_runs
    from launcher.monitor.watch import LiveRuns

    if not names:
        refuse_where(where)
        return LiveRuns(profile, lambda: list_runs(profile))
    lists = [_runs_of(profile, name, where) for name in names]
    return lambda: [*dict.fromkeys(run for one in lists for run in one())]


def _runs_of(profile: "Cluster", name: str, where: list[str] | None) -> "Callable[[], Sequence[RunDir]]":
    from launcher.monitor.find import find_run
    from launcher.monitor.sweep import find_sweep, folders_of, select
    from launcher.pipeline.find import find_pipeline

    if points := find_sweep(profile, name):
        folders = folders_of(profile, select(points, where or ()))
        return lambda: folders
    refuse_where(where)
    if pipeline := find_pipeline(profile, name):
        return lambda: [*pipeline.runs().values()]
    run = find_run(profile, name)
    return lambda: [run]


def _print_once(look: "Look") -> None:
    from launcher.cli.views.status_view import console
    from launcher.cli.views.watch_view import picture

    out = console()
    width = out.width if out.is_terminal else max(out.width, _WIDTH)
    for line in picture(look, width, out.encoding.lower().startswith("utf")):
        out.print(line, soft_wrap=True)


def _save(look: "Look", path: Path, site: str) -> None:
    from launcher.cli.views.watch_view import to_svg

    path.write_text(to_svg(look, _PICTURE_WIDTH, f"launcher watch, {site}"), encoding="utf-8")
    tell(f"{path}: {len(look.runs)} runs")


class _Live:
    """The view of a person at a terminal. Looks and commands are carried out one at a time, beside the keyboard."""

    def __init__(self, watched: "RunWatch", profile: "Cluster", interval: float) -> None:
        from launcher.cli.views.watch_view import WatchState

        self._watched, self._profile, self._interval = watched, profile, interval
        self._worker = ThreadPoolExecutor(1)
        self._state = WatchState()
        self._look: Look = watched.look()  # before the terminal is taken over: its errors are printed as ever
        self._next: float = time.monotonic() + interval
        self._looking: Future[Look] | None = None
        self._command: Future[str] | None = None
        self._asked: Callable[[], str] | None = None

    def run(self) -> None:
        """Show it until the person leaves."""
        from launcher.cli.live_screen import taken_over

        try:
            with taken_over() as screen:
                self._draw(screen)
                while self._step(screen):
                    pass
        except KeyboardInterrupt:
            pass
        finally:
            self._worker.shutdown(wait=False, cancel_futures=True)

    def _step(self, screen: "LiveScreen") -> bool:
        keys = screen.keys(_LOOK_SECONDS)
        if keys is None or "q" in keys:
            return False
        for key in keys:
            self._press(key)
        changed = [self._take_answer(), self._take_command(), screen.was_resized()]
        if keys or any(changed):
            self._draw(screen)
        if self._looking is None and time.monotonic() >= self._next:
            self._looking = self._worker.submit(self._watched.look)
        return True

    def _draw(self, screen: "LiveScreen") -> None:
        from launcher.cli.views.status_view import console
        from launcher.cli.views.watch_view import frame, to_ansi

        out, (width, height) = console(), screen.size
        lines = frame(self._look, self._state, width, height, out.encoding.lower().startswith("utf"))
        screen.draw(to_ansi(lines, width, out.color_system))

    def _press(self, key: str) -> None:
        if self._asked is not None:
            asked, self._asked, self._state.question = self._asked, None, ""
            if key in ("y", "Y"):
                self._start(asked)
            return
        self._state.message = ""
        if key in ("up", "down"):
            self._state.move(self._look, 1 if key == "down" else -1)
        elif key == "l":
            self._state.shows_log = not self._state.shows_log
        elif key in ("s", "r") and self._look.runs:
            self._ask(key)

    def _ask(self, key: str) -> None:
        status = self._look.runs[self._state.place(self._look)].status
        folder = Path(status.folder)
        if key == "s":
            self._state.question = f"save and stop {status.name} ({status.id})? y/n"
            self._asked = lambda: stop_run(self._profile, folder)
        else:
            self._state.question = f"resume {status.name} ({status.id})? y/n"
            self._asked = lambda: resume_run(self._profile, folder)

    def _start(self, command: Callable[[], str]) -> None:
        self._state.message = "..."
        self._command = self._worker.submit(command)

    def _take_command(self) -> bool:
        from launcher.errors import LauncherError

        if self._command is None or not self._command.done():
            return False
        try:
            self._state.message = self._command.result()
        except (LauncherError, OSError) as error:
            self._state.message = str(error).splitlines()[0]
        self._command, self._next = None, 0.0
        return True

    def _take_answer(self) -> bool:
        from launcher.errors import LauncherError

        if self._looking is None or not self._looking.done():
            return False
        try:
            self._look = self._looking.result()
        except (LauncherError, OSError) as error:
            self._state.message = str(error).splitlines()[0]
        self._looking, self._next = None, time.monotonic() + self._interval
        return True


def stop_run(profile: "Cluster", folder: Path) -> str:
    """Ask a run to save and stop; say what came of it."""
    from launcher.operate.stop import stop
    from launcher.run.paths import RunDir

    outcome = stop(RunDir(folder), profile)
    return f"{folder.name}: {'asked to save and stop' if outcome == 'asked' else outcome}"


def resume_run(profile: "Cluster", folder: Path) -> str:
    """Queue a run again; say what came of it. A held job is left alone, since that takes another question."""
    from launcher.operate.stop import find_held, resume
    from launcher.run.paths import RunDir

    if held := find_held(RunDir(folder), profile):
        job = next(iter(held.values()))
        return f"job {job.id} is held; `launcher resume --yes {folder.name}` releases it"
    return f"{folder.name}: queued as job {', '.join(resume(RunDir(folder), profile))}"
