"""Which nodes can take a job, from the lines that sinfo prints of them, for the launcher and the nodes.

Standard library only.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from launcher.run.slurm_text import parse_gres

NODE_LINES_FORMAT = "%P|%N|%T|%G|%f|%c|%m"
"""What `sinfo --noheader --Node --format` is to print."""

_BROKEN = re.compile(r"down|drain|fail|unknown|inval|future|blocked|error|perfctrs|.*\*")
"""States of sinfo in which a node takes no job until somebody mends it; `*`: it does not respond."""
_RESERVED = re.compile(r"reserved|maint|.*\$")
"""In which it takes only jobs of a reservation; `$`: one for maintenance."""


class UnknownNodesError(Exception):
    """Nobody can tell which nodes can take the job."""


@dataclass(frozen=True)
class WantedNode:
    """What a job wants of each node."""

    gpus: int
    cpus: int
    mebibytes: int = 0
    """Of RAM; 0 if it asks for none."""
    gpu_type: str | None = None
    constraint: str | None = None
    is_reserved: bool = False
    """Whether the job has a reservation."""


@dataclass(frozen=True)
class ListedNode:
    """A line of sinfo: a node in a partition."""

    partition: str
    """With a `*` behind the default one."""
    name: str
    state: str
    gres: str
    features: frozenset[str]
    cpus: int
    mebibytes: int

    def can_take(self, wanted: WantedNode) -> bool:
        """Tell whether it could take a job, now or when other jobs have ended.

        Raises:
            UnknownNodesError: The constraint is of a form that only Slurm understands.
        """
        is_open = wanted.is_reserved or not _RESERVED.match(self.state)
        return is_open and not _BROKEN.match(self.state) and self.has(wanted)

    def has(self, wanted: WantedNode) -> bool:
        """Tell whether it has what a job wants, in whatever state it is.

        Raises:
            UnknownNodesError: The constraint is of a form that only Slurm understands.
        """
        gpus = sum(count for kind, count in parse_gres(self.gres) if wanted.gpu_type in (None, kind))
        return (
            gpus >= wanted.gpus
            and self.cpus >= wanted.cpus
            and self.mebibytes >= wanted.mebibytes
            and (wanted.constraint is None or satisfies(wanted.constraint, self.features))
        )


def group_able(nodes: Sequence[ListedNode], wanted: WantedNode, *, only_default: bool) -> list[set[str]]:
    """Group the nodes that can take a job by partition, for all nodes of a job are of one.

    Args:
        nodes: Those of the partitions that it may go to.
        wanted: What it wants of each.
        only_default: Whether it goes to the default one of the partitions.

    Raises:
        UnknownNodesError: The constraint is of a form that only Slurm understands.
    """
    found: dict[str, set[str]] = {}
    for node in nodes:
        if not only_default or node.partition.endswith("*"):
            its = found.setdefault(node.partition, set())
            its |= {node.name} if node.can_take(wanted) else set()
    return [*found.values()]


def parse_nodes(listed: str) -> list[ListedNode]:
    """Parse sinfo's lines in NODE_LINES_FORMAT."""
    rows = [line.strip().split("|") for line in listed.splitlines() if line.count("|") == 6]
    return [
        ListedNode(partition, name, state.lower(), gres, frozenset(features.split(",")), _number(cpus), _number(memory))
        for partition, name, state, gres, features, cpus, memory in rows
    ]


def satisfies(constraint: str, features: frozenset[str]) -> bool:
    """Tell whether a node has what `--constraint` asks for: names, `&`, `|`, parentheses.

    Raises:
        UnknownNodesError: It has another form: counts, lists in brackets, or `&` beside `|` without parentheses.
    """
    tokens = iter(re.findall(r"[&|()]|[^&|()]+", constraint))
    fulfilled, end = _evaluate(tokens, features)
    if end is not None:
        raise UnknownNodesError(f"`{constraint}`")
    return fulfilled


def _evaluate(tokens: Iterator[str], features: frozenset[str]) -> tuple[bool, str | None]:
    """Evaluate up to a closing parenthesis or the end; return the value, and what it ended with."""
    values, operators = [], set[str]()
    while True:
        word = next(tokens, "")
        if word == "(":
            value, end = _evaluate(tokens, features)
            if end != ")":
                raise UnknownNodesError("a parenthesis is open")
        elif re.fullmatch(r"[\w.:/=+-]+", word):
            value = word in features
        else:
            raise UnknownNodesError(f"`{word}`")
        values.append(value)
        operator = next(tokens, None)
        if operator not in ("&", "|"):
            break
        operators.add(operator)
    if len(operators) > 1:
        raise UnknownNodesError("`&` and `|` are mixed")
    return (any(values) if operators == {"|"} else all(values)), operator


def _number(text: str) -> int:
    found = re.match(r"\d+", text)  # `64+` where the nodes of a line differ
    return int(found[0]) if found else 0
