"""Parse YAML into a tree whose values have line numbers, and find all faults of the text, not only the first.

The tree is built from PyYAML's event stream (libyaml's where it is installed), not by its composer: no recursion in C,
no resolver of YAML 1.1, and a bound on what aliases may expand to.
"""

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, NamedTuple, TypeAlias

import yaml
from yaml.reader import Reader

from launcher.errors import Fault
from launcher.load.yaml_errors import MAX_DEPTH, TOO_DEEP, explain_syntax_error
from launcher.load.yaml_scalars import Scalar, resolve

MAX_NODES = 100_000
"""Nodes of one document after aliases are expanded: ten nested lists of ten aliases make 10^10 ("billion laughs")."""

REPLACE = "!replace"
"""The only tag there is; mappings can have it."""

Path: TypeAlias = tuple[str | int, ...]

_Loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


class Origin(NamedTuple):
    """Where a value was written."""

    file: str
    line: int | None
    section: str = ""
    """Prefix of the key there (`rehearsal.`)."""


class YamlNode(NamedTuple):
    """A value and where it was written; an entry of a mapping has the line of its key."""

    value: "dict[str, YamlNode] | list[YamlNode] | Scalar"
    origin: Origin
    text: str = ""
    """A scalar as it was written."""
    is_refused: bool = False
    """The spelling has been reported as a fault; ignore the value."""
    replaces: bool = False
    """A mapping marked `!replace`: it takes the place of one below it instead of being merged with it."""


@dataclass(frozen=True)
class Document:
    """One YAML document of a file."""

    text: str
    root: YamlNode


@dataclass
class Parsed:
    """The content of a YAML file; documents before a syntax error are kept."""

    documents: list[Document] = field(default_factory=list)
    faults: list[Fault] = field(default_factory=list)
    secrets: frozenset[str] = frozenset()
    """Values that look like secrets; messages must not repeat them."""


def parse_yaml(text: str, file: str) -> Parsed:
    """Parse YAML text of one or several documents.

    Args:
        text: The text.
        file: What to call it in faults.
    """
    parsed = Parsed()
    if unprintable := Reader.NON_PRINTABLE.search(text):
        message = f"the control character {unprintable[0]!a} is not allowed in YAML; remove it"
        parsed.faults.append(Fault(file, text.count("\n", 0, unprintable.start()) + 1, "", message, "syntax"))
        return parsed
    builder = _Builder(text, file, parsed.faults)
    try:
        builder.build()
    except yaml.MarkedYAMLError as error:
        # libyaml reads ahead, so it may meet a limit of its own, or an end of the text, before we meet MAX_DEPTH.
        line = _find_excessive_depth(text)
        line, message = (line, TOO_DEEP) if line else explain_syntax_error(error, text)
        parsed.faults.append(Fault(file, line, "", message, "syntax"))
    except _TooLargeError as error:
        parsed.faults.append(error.fault)
    starts = [0, *builder.starts[1:], len(text)]
    parts = (text[start:end] for start, end in pairwise(starts))
    parsed.documents.extend(Document(part, root) for part, root in zip(parts, builder.roots, strict=False))
    return parsed


def join_path(path: Path) -> str:
    """Write a path with dots: `data.corpora.0.weight`."""
    return ".".join(map(str, path))


def _refuse_tag(tag: str) -> str:
    if tag == REPLACE:
        return f"`{REPLACE}` is for sections; lists and single values always replace those of a base; remove it"
    return f"the YAML tag `{tag}` is not allowed; remove it (write text in quotes)"


def _find_excessive_depth(text: str) -> int | None:
    """Find the line (1-based) where text nests deeper than MAX_DEPTH, unless a syntax error comes first."""
    depth = 0
    # PyYAML's own parser: it has no limit, and no recursion either.
    with suppress(yaml.YAMLError):
        for event in yaml.parse(text, Loader=yaml.SafeLoader):
            if depth > MAX_DEPTH and isinstance(event, yaml.NodeEvent):
                assert event.start_mark is not None
                return event.start_mark.line + 1
            depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
    return None


class _TooLargeError(Exception):
    def __init__(self, fault: Fault) -> None:
        super().__init__(str(fault))
        self.fault = fault


class _Builder:
    """Builds one tree per document; recursion is bounded by MAX_DEPTH."""

    def __init__(self, text: str, file: str, faults: list[Fault]) -> None:
        self.starts: list[int] = []
        self.roots: list[YamlNode] = []
        # Any, because types-PyYAML knows no attributes of events.
        self._events: Iterator[Any] = iter(yaml.parse(text, Loader=_Loader))
        self._file = file
        self._faults = faults
        self._path: list[str | int] = []
        self._anchors: dict[str, tuple[YamlNode, int]] = {}
        self._count = 0

    def build(self) -> None:
        """Build the trees of all documents into `roots`."""
        for event in self._events:
            if isinstance(event, yaml.DocumentStartEvent):
                self._anchors, self._path, self._count = {}, [], 0
                assert event.start_mark is not None
                self.starts.append(event.start_mark.index)
                self.roots.append(self._node(next(self._events)))

    def _node(self, event: Any) -> YamlNode:
        if isinstance(event, yaml.AliasEvent):
            return self._alias(event)
        before = self._count
        self._count_nodes(event, 1)
        replaces = event.tag == REPLACE and isinstance(event, yaml.MappingStartEvent)
        if event.tag is not None and not replaces:
            self._fault(event, _refuse_tag(event.tag))
        if isinstance(event, yaml.ScalarEvent):
            node = self._scalar(event)
        elif isinstance(event, yaml.SequenceStartEvent):
            node = self._sequence(event)
        else:
            node = self._mapping(event)._replace(replaces=replaces)
        if event.anchor:
            self._anchors[event.anchor] = node, self._count - before
        return node

    def _alias(self, event: Any) -> YamlNode:
        origin = self._origin(event)
        if event.anchor not in self._anchors:
            self._fault(event, f"`*{event.anchor}` has no `&{event.anchor}` before it; define it or write the value")
            return YamlNode(None, origin, is_refused=True)
        node, size = self._anchors[event.anchor]
        self._count_nodes(event, size)
        return node._replace(origin=origin)

    def _scalar(self, event: Any) -> YamlNode:
        text = event.value
        if not event.implicit[0]:
            return YamlNode(text, self._origin(event), text)
        value, complaint = resolve(text)
        if complaint:
            self._fault(event, complaint)
        return YamlNode(value, self._origin(event), text, complaint is not None)

    def _sequence(self, event: Any) -> YamlNode:
        items: list[YamlNode] = []
        while not isinstance(child := next(self._events), yaml.SequenceEndEvent):
            self._path.append(len(items))
            items.append(self._node(child))
            self._path.pop()
        return YamlNode(items, self._origin(event))

    def _mapping(self, event: Any) -> YamlNode:
        entries: dict[str, YamlNode] = {}
        merged: list[YamlNode] = []
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
                entries[key] = node._replace(origin=self._origin(key_event))
            self._path.pop()
        for source in merged:
            assert isinstance(source.value, dict)
            entries = {**source.value, **entries}
        return YamlNode(entries, self._origin(event))

    def _key(self, event: Any) -> str:
        node = self._node(event)
        if isinstance(node.value, dict | list) or (node.value is None and not node.text):
            self._fault(event, "a key must be a word; write `key: value`")
            return "?"
        return node.text

    def _mergeable(self, node: YamlNode, event: Any) -> list[YamlNode]:
        sources = node.value if isinstance(node.value, list) else [node]
        if all(isinstance(source.value, dict) for source in sources):
            return sources
        if not node.is_refused:
            self._fault(event, "`<<` merges mappings; write `<<: *name` with a mapping that is marked `&name`")
        return []

    def _origin(self, event: Any) -> Origin:
        return Origin(self._file, event.start_mark.line + 1)

    def _fault(self, event: Any, message: str) -> None:
        self._faults.append(
            Fault(self._file, event.start_mark.line + 1, join_path(tuple(self._path)), message, "syntax")
        )

    def _count_nodes(self, event: Any, number: int) -> None:
        self._count += number
        is_deep = len(self._path) > MAX_DEPTH
        if is_deep or self._count > MAX_NODES:
            message = TOO_DEEP if is_deep else f"more than {MAX_NODES} values, aliases expanded; no recipe needs that"
            raise _TooLargeError(Fault(self._file, event.start_mark.line + 1, "", message, "syntax"))
