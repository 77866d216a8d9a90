"""How long a rank may go without a heartbeat, by what it does and how long that took before. Standard library only.

`limits.hang` has to be longer than the slowest thing that a run does, such as loading its model or compiling it. Most
of its time a run does the same short thing again and again, and by that a hang can be told much earlier.
"""

from dataclasses import dataclass

from launcher.run.heartbeat import Bound

TIMES = 10
"""How many times as long as ever before something may take."""
LEAST_SECONDS = 20.0
"""No bound is shorter: a shared file system or a busy machine makes everything wait for some seconds."""


@dataclass(frozen=True)
class _PaceRule:
    """When something is known well enough, and the least of its bound as a share of the limit."""

    share: float
    beats: int = 0
    visits: int = 0


_RULES = {
    "training": _PaceRule(1 / 15, beats=10),
    # A file system, which other jobs use, may be much slower the next time.
    "saving": _PaceRule(1 / 3, visits=2),
    "evaluating": _PaceRule(1 / 3, visits=2),
}


@dataclass
class _Seen:
    """What is known of one thing that a rank does."""

    beats: int = 0
    visits: int = 0
    longest: float = 0.0


class Pace:
    """What a rank has done so far, and how long it may take for what it does now.

    Args:
        limit: `limits.hang` in seconds: no bound is longer.
        now: The time, by any clock that the other methods are given, too.
    """

    def __init__(self, limit: float, now: float) -> None:
        self._limit = limit
        self._seen: dict[str, _Seen] = {}
        self._since = now
        self.doing = ""
        """What it does; empty for what is done once."""

    def beat(self, now: float) -> None:
        """Note a heartbeat."""
        self._note(now).beats += 1

    def turn_to(self, what: str, now: float) -> None:
        """Note that something else begins."""
        self._note(now).visits += 1
        self.doing = what

    @property
    def bound(self) -> Bound:
        """How long this may take."""
        rule, seen = _RULES.get(self.doing), self._seen.get(self.doing, _Seen())
        if rule is None or seen.beats < rule.beats or seen.visits < rule.visits:
            return Bound(self._limit, self.doing)
        seconds = max(LEAST_SECONDS, rule.share * self._limit, TIMES * seen.longest)
        return Bound(seconds, self.doing, seen.longest) if seconds < self._limit else Bound(self._limit, self.doing)

    def _note(self, now: float) -> _Seen:
        seen = self._seen.setdefault(self.doing, _Seen())
        seen.longest = max(seen.longest, now - self._since)
        self._since = now
        return seen
