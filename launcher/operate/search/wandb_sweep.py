"""Runs of a sweep at W&B, asked for as its own agent asks: one at a time, by the element that is free.

W&B's client (0.31) has no public interface for it. tests/operate/test_wandb_sweep.py guards the private functions, with
the real client.
"""

import contextlib
import os
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError

from launcher.errors import LauncherError, RunError, how_to_install
from launcher.load.searches import why_fixed
from launcher.monitor.trials import PastTrial
from launcher.run.paths import expand
from launcher.run.secrets_file import SecretsFileError, read_secrets
from launcher.submit.search_record import SearchRecord

WAIT_SECONDS = 120
"""A sweep that gives nothing for so long is paused, or W&B is away."""
POLL_SECONDS = 5
"""W&B's own agent asks as often."""
_QUIET: Mapping[str, Any] = {
    **dict.fromkeys(("disable_code", "disable_git", "disable_job_creation", "silent"), True),
    **dict.fromkeys(("x_disable_meta", "x_disable_machine_info"), True),
    **{"x_save_requirements": False, "console": "off", "host": ""},
    **{"init_timeout": 30, "finish_timeout": 30},
}
"""Settings that send nothing but values."""


class NothingGivenError(Exception):
    """The sweep gives no further run."""

    def __init__(self, why: str, has_ended: bool) -> None:
        self.has_ended = has_ended
        super().__init__(why)


@dataclass(frozen=True)
class SweepRun:
    """A run that W&B gave."""

    id: str
    values: Mapping[str, Any]
    """By the dotted keys of the recipe."""


class WandbSweep:
    """A sweep at W&B, and the run of it that this process was given and nobody has claimed yet."""

    def __init__(self, record: SearchRecord) -> None:
        assert record.search.sweep is not None
        self._record, self._path = record, record.search.sweep
        self._entity, self._project, self.id = self._path.split("/")
        self._given: SweepRun | None = None
        self._api: Any = None
        self._agent = ""

    def take(self, past: Sequence[PastTrial]) -> SweepRun:
        """Return the run that was given, or ask for one.

        Args:
            past: The trials that there are. W&B may give a run again that it takes for preempted.

        Raises:
            NothingGivenError: There is none.
            RunError: W&B refuses, or the sweep has a parameter that is no key of the recipe.
        """
        if self._given is None:
            self._given = self._ask({one.trial.wandb_id for one in past})
            self._refuse_unknown_keys(self._given.values)
        return self._given

    def keep(self) -> None:
        """Note that the run has become a trial."""
        self._given = None

    def refuse(self) -> None:
        """Tell W&B that the run which was given, if any, has failed: no trial is made of it."""
        given, self._given = self._given, None
        if given is None:
            return
        import wandb

        # Without an answer W&B takes the run for lost by itself, only later.
        with contextlib.suppress(Exception), tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
            settings = wandb.Settings(sweep_id=self.id, **_QUIET)
            place: Mapping[str, Any] = {"entity": self._entity, "project": self._project, "dir": folder}
            run = wandb.init(id=given.id, mode="online", config=dict(given.values), settings=settings, **place)
            run.finish(exit_code=1)

    def _ask(self, known: set[str | None]) -> SweepRun:
        from wandb.apis.public.sweeps import _agent_heartbeat
        from wandb.sdk.sweeps import SweepNotFoundError

        self._join()
        end = time.monotonic() + WAIT_SECONDS
        while True:
            try:
                commands = _agent_heartbeat(self._api, self._agent, {}, {})
            except SweepNotFoundError:
                raise RunError(f"search.sweep: W&B has no sweep `{self._path}` any more") from None
            for command in commands or ():
                if command["type"] == "exit":
                    raise NothingGivenError(f"the sweep `{self._path}` has ended at W&B", has_ended=True)
                if command["type"] in ("run", "resume") and command["run_id"] not in known:
                    args: Mapping[str, Mapping[str, Any]] = command["args"] or {}
                    return SweepRun(command["run_id"], {key: one["value"] for key, one in args.items()})
            if time.monotonic() >= end:
                why = f"W&B gave no run of `{self._path}` for {WAIT_SECONDS} s: the sweep is paused, or W&B is away"
                raise NothingGivenError(f"{why}; `launcher resume` continues", has_ended=False)
            time.sleep(POLL_SECONDS)

    def _join(self) -> None:
        """Become an agent of the sweep."""
        if self._api is not None:
            return
        _set_environment(self._record)
        try:
            import wandb
        except ImportError as error:
            raise LauncherError(f"search: {error}; install it for the nodes with {how_to_install('search')}") from None
        from wandb.apis.public.sweeps import _register_agent

        try:
            self._api = wandb.Api()
            place = {"sweep_id": self.id, "entity": self._entity, "project": self._project}
            host = "" if self._record.recipe["data_use"] == "credentialed" else os.uname().nodename
            self._agent = _register_agent(self._api, host, **place)["id"]
        except Exception as error:  # W&B's own classes are for failures of any kind
            raise RunError(f"search.sweep: W&B gives no runs of `{self._path}`: {error}") from error

    def _refuse_unknown_keys(self, values: Mapping[str, Any]) -> None:
        wrong = next(filter(None, (_fault(key, value) for key, value in values.items())), None)
        wrong = wrong or self._find_unknown(values)
        if wrong:
            raise RunError(f"search.sweep: {wrong}; correct the parameters of `{self._path}`, or make another sweep")

    def _find_unknown(self, values: Mapping[str, Any]) -> str | None:
        unknown: set[str] = set()
        try:
            self._record.trial_recipe(0, values)
        except ValidationError as error:
            unknown = {str(one["loc"][-1]) for one in error.errors() if one["type"] == "extra_forbidden"}
        except (ValueError, LookupError, TypeError, AttributeError):  # a list or a word where a section should be
            return f"one of {', '.join(f'`{key}`' for key in values)} leads nowhere in this recipe"
        found = next((key for key in values if unknown.intersection(key.split("."))), None)
        return f"`{found}` is no key of this recipe" if found else None


def _fault(key: str, value: object) -> str | None:
    """Say why a parameter cannot be searched; None if it can."""
    same = "is the same for all trials" if key.partition(".")[0] == "tracking" else None
    if why := why_fixed(key) or same:
        return f"`{key}` {why}"
    return f"`{key}` has parameters below it; write them with dots, as `{key}.KEY`" if isinstance(value, dict) else None


def _set_environment(record: SearchRecord) -> None:
    """Let W&B's client find its server and its key as the ranks' does: from here into no file and no command line."""
    site = record.site
    wanted = [name for name in record.recipe.get("secrets", ()) if name.startswith("WANDB_")]
    if site.secrets_file and wanted:
        try:
            found = read_secrets(expand(site.secrets_file))
        except SecretsFileError as error:
            raise RunError(str(error)) from None
        os.environ.update({name: found[name] for name in wanted if name in found})
    if site.wandb_base_url:
        os.environ["WANDB_BASE_URL"] = site.wandb_base_url
