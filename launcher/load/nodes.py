"""YAML text in, a tree of values that know their line out; with all faults of the text, not only the first.

The tree is built from PyYAML's event stream (libyaml's where it is installed), not by its composer: no recursion in C,
no resolver of YAML 1.1, and a bound on what aliases may expand to.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, NamedTuple, TypeAlias

import yaml
from yaml.reader import Reader

from launcher.errors import Fault
from launcher.load.scalars import Scalar, resolve
from launcher.load.syntax import explain_syntax_error

MAX_DEPTH = 64
MAX_NODES = 100_000
"""Nodes of one document after aliases are expanded: ten nested lists of ten aliases make 10^10 ("billion laughs")."""

Path: TypeAlias = tuple[str | int, ...]

_Loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


class Origin(NamedTuple):
    """Where a value was written."""

    file: str
    line: int | None
    section: str = ""
    """What stands before the key there (`rehearsal.`)."""


class Node(NamedTuple):
    """A value and where it was written; an entry of a mapping has the line of its key."""

    value: "dict[str, Node] | list[Node] | Scalar"
    origin: Origin
    text: str = ""
    """A scalar as it was written."""
    is_refused: bool = False
    """The spelling is a fault already; the value means nothing."""


@dataclass(frozen=True)
class Document:
    """One YAML document of a file."""

    text: str
    root: Node


@dataclass
class Parsed:
    """What a YAML file holds; the documents before a syntax error are there in spite of it."""

    documents: list[Document] = field(default_factory=list)
    faults: list[Fault] = field(default_factory=list)
    secrets: frozenset[str] = frozenset()
    """What looks like a secret, so that no message repeats it."""


def parse_yaml(text: str, file: str) -> Parsed:
    """Parse YAML text of one or several documents.

    Args:
        text: The text.
        file: What to call it in faults.
    """
    parsed = Parsed()
    if unprintable := Reader.NON_PRINTABLE.search(text):
        message = f"the control character {unprintable[0]!a} is not allowed in YAML; remove it"
        parsed.faults.append(Fault(file, text.count("\n", 0, unprintable.start()) + 1, "", message))
        return parsed
    builder = _Builder(text, file, parsed.faults)
    try:
        builder.build()
    except yaml.MarkedYAMLError as error:
        line, message = explain_syntax_error(error, text)
        parsed.faults.append(Fault(file, line, "", message))
    except _TooLargeError as error:
        parsed.faults.append(error.fault)
    starts = [0, *builder.starts[1:], len(text)]
    parts = (text[start:end] for start, end in pairwise(starts))
    parsed.documents.extend(Document(part, root) for part, root in zip(parts, builder.roots, strict=False))
    return parsed


def join_path(path: Path) -> str:
    """Write a path with dots: `data.corpora.0.weight`."""
    return ".".join(map(str, path))


class _TooLargeError(Exception):
    def __init__(self, fault: Fault) -> None:
        super().__init__(str(fault))
        self.fault = fault


class _Builder:
    """Builds one tree per document; recursion is bounded by MAX_DEPTH."""

    def __init__(self, text: str, file: str, faults: list[Fault]) -> None:
        self.starts: list[int] = []
        self.roots: list[Node] = []
        # Any, because types-PyYAML knows no attributes of events.
        self._events: Iterator[Any] = iter(yaml.parse(text, Loader=_Loader))
        self._file = file
        self._faults = faults
        self._path: list[str | int] = []
        self._anchors: dict[str, tuple[Node, int]] = {}
        self._count = 0

    def build(self) -> None:
        """Build the trees of all documents into `roots`."""
        for event in self._events:
            if isinstance(event, yaml.DocumentStartEvent):
                self._anchors, self._path, self._count = {}, [], 0
                assert event.start_mark is not None
                self.starts.append(event.start_mark.index)
                self.roots.append(self._node(next(self._events)))

    def _node(self, event: Any) -> Node:
        if isinstance(event, yaml.AliasEvent):
            return self._alias(event)
        before = self._count
        self._count_nodes(event, 1)
        if event.tag is not None:
            self._fault(event, f"the YAML tag `{event.tag}` is not allowed; remove it (write text in quotes)")
        if isinstance(event, yaml.ScalarEvent):
            node = self._scalar(event)
        elif isinstance(event, yaml.SequenceStartEvent):
            node = self._sequence(event)
        else:
            node = self._mapping(event)
        if event.anchor:
            self._anchors[event.anchor] = node, self._count - before
        return node

    def _alias(self, event: Any) -> Node:
        origin = self._origin(event)
        if event.anchor not in self._anchors:
            self._fault(event, f"`*{event.anchor}` has no `&{event.anchor}` before it; define it or write the value")
            return Node(None, origin, is_refused=True)
        node, size = self._anchors[event.anchor]
        self._count_nodes(event, size)
        return node._replace(origin=origin)

    def _scalar(self, event: Any) -> Node:
        text = event.value
        if not event.implicit[0]:
            return Node(text, self._origin(event), text)
        value, complaint = resolve(text)
        if complaint:
            self._fault(event, complaint)
        return Node(value, self._origin(event), text, complaint is not None)

    def _sequence(self, event: Any) -> Node:
        items: list[Node] = []
        while not isinstance(child := next(self._events), yaml.SequenceEndEvent):
            self._path.append(len(items))
            items.append(self._node(child))
            self._path.pop()
        return Node(items, self._origin(event))

    def _mapping(self, event: Any) -> Node:
        entries: dict[str, Node] = {}
        merged: list[Node] = []
        while not isinstance(key_event := next(self._events), yaml.MappingEndEvent):
            key = self._key(key_event)
            self._path.append(key)
            node = self._node(next(self._events))
            if isinstance(key_event, yaml.ScalarEvent) and key == "<<" and key_event.implicit[0]:
                merged += self._mergeable(node, key_event)
            elif key in entries:
                first = entries[key].origin.line
                self._fault(key_event, f"the key is given twice, first on line {first}; keep one of them")
            else:
                entries[key] = Node(node.value, self._origin(key_event), node.text, node.is_refused)
            self._path.pop()
        for source in merged:
            assert isinstance(source.value, dict)
            entries = {**source.value, **entries}
        return Node(entries, self._origin(event))

    def _key(self, event: Any) -> str:
        node = self._node(event)
        if isinstance(node.value, dict | list) or (node.value is None and not node.text):
            self._fault(event, "a key must be a word; write `key: value`")
            return "?"
        return node.text

    def _mergeable(self, node: Node, event: Any) -> list[Node]:
        sources = node.value if isinstance(node.value, list) else [node]
        if all(isinstance(source.value, dict) for source in sources):
            return sources
        if not node.is_refused:
            self._fault(event, "`<<` merges mappings; write `<<: *name` with a mapping that is marked `&name`")
        return []

    def _origin(self, event: Any) -> Origin:
        return Origin(self._file, event.start_mark.line + 1)

    def _fault(self, event: Any, message: str) -> None:
        self._faults.append(Fault(self._file, event.start_mark.line + 1, join_path(tuple(self._path)), message))

    def _count_nodes(self, event: Any, number: int) -> None:
        self._count += number
        is_deep = len(self._path) > MAX_DEPTH
        if is_deep or self._count > MAX_NODES:
            limit = f"{MAX_DEPTH} levels deep" if is_deep else f"{MAX_NODES} values, aliases expanded"
            message = f"more than {limit}; no recipe needs that"
            raise _TooLargeError(Fault(self._file, event.start_mark.line + 1, "", message))
