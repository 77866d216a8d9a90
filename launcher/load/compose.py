"""Merge a file with its `base:`, its `rehearsal` and `--set`.

One rule everywhere: mappings are merged key by key, everything else is replaced, and so are mappings marked `!replace`.
"""

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

from launcher.errors import Fault, FaultCode
from launcher.load.read import read_documents
from launcher.load.secret_scan import find_leaks, mask
from launcher.load.yaml_errors import MAX_DEPTH
from launcher.load.yaml_tree import Document, Origin, Parsed, YamlNode, join_path, parse_yaml


@dataclass(frozen=True)
class Shared:
    """What recipes that are read together share, maybe a thousand of them: it is made once.

    Attributes:
        bases: What the files named by `base:` hold; None for one that does not exist.
        copies: Trees of bases as seen from another folder, and of rehearsals: by the tree's identity and what was done
            with it, the tree and its copy.
    """

    bases: dict[str, Parsed | None] = field(default_factory=dict)
    copies: dict[tuple[int, str], tuple[YamlNode, YamlNode]] = field(default_factory=dict)


@dataclass
class Composer:
    """Merges trees and collects their faults."""

    faults: list[Fault] = field(default_factory=list)
    secrets: set[str] = field(default_factory=set)
    shared: Shared = field(default_factory=Shared)

    def read(self, path: Path) -> list[Document]:
        """Read the documents of a file that are not empty."""
        return self._take(read_documents(path), str(path))

    def _base(self, name: str) -> Parsed | None:
        if name not in self.shared.bases:
            self.shared.bases[name] = read_documents(Path(name)) if os.path.isfile(name) else None
        return self.shared.bases[name]

    def _take(self, parsed: Parsed, file: str) -> list[Document]:
        self.faults += parsed.faults
        self.secrets |= parsed.secrets
        documents = [document for document in parsed.documents if document.root.value is not None]
        if not documents and not parsed.faults:
            self.refuse(Origin(file, None), "structure", "the file is empty; see the examples under `recipes/`")
        return documents

    def lay_on_base(self, root: YamlNode, path: Path, chain: tuple[Path, ...] = ()) -> list[YamlNode]:
        """Lay a document over the file that its `base:` names, and that over its own base, and so on.

        Args:
            root: The document.
            path: The file it was read from; `base:` is relative to it.
            chain: The files that led here.

        Returns:
            The document with all that is below it, then its base with all that is below that, and so on.
        """
        if not isinstance(root.value, dict) or "base" not in root.value:
            return [root]
        base = root.value["base"]
        rest = YamlNode({key: node for key, node in root.value.items() if key != "base"}, root.origin)
        name = os.path.normpath(os.path.join(path.parent, base.text))
        chain = (*chain, path)
        if not isinstance(base.value, str):
            self.refuse(base.origin, "wrong-type", "name one file: `base: other.yaml`", "base")
        elif name in map(os.path.normpath, chain):
            loop = " -> ".join([*map(str, chain), name])
            self.refuse(
                base.origin, "structure", f"the files form a loop ({loop}); remove one of the `base:` lines", "base"
            )
        elif (parsed := self._base(name)) is None:
            self.refuse(
                base.origin, "not-found", f"there is no file `{name}`; the path is relative to this file", "base"
            )
        elif len(documents := self._take(parsed, name)) > 1:
            self.refuse(
                base.origin, "structure", f"`{base.text}` holds {len(documents)} documents; a base holds one", "base"
            )
        elif documents:
            layers = self.lay_on_base(documents[0].root, Path(name), chain)
            folder, its = os.path.dirname(name) or ".", str(path.parent)
            move = partial(_move, folder=folder, place=its)
            below = [self._copy_once(layer, f"seen from {its}", move) for layer in layers]
            return [merge(below[0], rest)._replace(origin=base.origin), *below]
        return [rest]

    def lay_rehearsal(self, root: YamlNode) -> YamlNode:
        """Lay the `rehearsal` of a recipe over it; the name gets `-rehearsal` unless the overlay sets one."""
        assert isinstance(root.value, dict)
        entries = {key: node for key, node in root.value.items() if key != "rehearsal"}
        if name := entries.get("name"):
            entries["name"] = name._replace(value=f"{name.value}-rehearsal")
        overlay = self._copy_once(root.value["rehearsal"], "rehearsal.", _mark_rehearsal)
        return merge(YamlNode(entries, root.origin), overlay._replace(origin=root.origin))

    def _copy_once(self, node: YamlNode, name: str, copy: Callable[[YamlNode], YamlNode]) -> YamlNode:
        if (id(node), name) not in self.shared.copies:
            self.shared.copies[id(node), name] = node, copy(node)
        return self.shared.copies[id(node), name][1]

    def set_all(self, root: YamlNode, overrides: Sequence["Override"]) -> YamlNode:
        """Lay the values of `--set` over a document."""
        for override in overrides:
            if override.keys[0] == "base":
                message = f"only a file has a base; write `base: {override.value.text}` into one"
                self.refuse(override.value.origin, "structure", message)
                continue
            try:
                root = _put(root, override.keys, override.value)
            except _MisplacedError as error:
                self.refuse(override.value.origin, "structure", str(error))
        return root

    def parse_overrides(self, texts: Sequence[str]) -> list["Override"]:
        """Parse the values of `--set`."""
        return [override for text in texts if (override := self._parse_override(text))]

    def _parse_override(self, text: str) -> "Override | None":
        name, equals, value = text.partition("=")
        keys, origin = tuple(name.split(".")), Origin(f"--set {name}", None)
        if not equals or not all(keys) or len(keys) > MAX_DEPTH:
            self.refuse(origin, "structure", "is not an assignment; write `--set optim.lr=1e-5`")
            return None
        return Override(keys, self.parse_value(value, origin, text, keys))

    def parse_value(self, value: str, origin: Origin, text: str, keys: tuple[str, ...] = ()) -> YamlNode:
        """Parse the value of an option.

        Args:
            value: YAML.
            origin: The option.
            text: All that was given to the option.
            keys: The key that the value is for.
        """
        parsed = parse_yaml(value, origin.file)
        root = parsed.documents[0].root if parsed.documents else YamlNode(None, origin, is_refused=bool(parsed.faults))
        node = map_origins(root, lambda _: origin)
        leaks, secrets = find_leaks(text, [_nest(keys, node)], origin.file)
        self.secrets |= secrets
        self.faults += [replace(fault, line=None, key="") for fault in [*parsed.faults, *leaks[:1]]]
        if len(parsed.documents) > 1:
            self.refuse(origin, "structure", "holds several YAML documents; write one value")
        return node

    def all_faults(self, path: Path) -> list[Fault]:
        """Give what was collected, once each, without secrets: those of the file that was asked for first."""
        unique = dict.fromkeys(mask(fault, self.secrets) for fault in self.faults)
        return sorted(unique, key=lambda fault: (fault.file != str(path), fault.file, fault.line or 0))

    def refuse(self, origin: Origin, code: FaultCode, message: str, key: str = "") -> None:
        """Add a fault."""
        self.faults.append(Fault(origin.file, origin.line, key, message, code))


@dataclass(frozen=True)
class Override:
    """One `--set a.b=c`."""

    keys: tuple[str, ...]
    value: YamlNode


def merge(below: YamlNode, above: YamlNode) -> YamlNode:
    """Lay a tree over another: mappings are merged unless the upper one is marked, everything else is replaced."""
    if above.replaces or not isinstance(below.value, dict) or not isinstance(above.value, dict):
        return above
    entries = dict(below.value)
    for key, node in above.value.items():
        entries[key] = merge(entries[key], node) if key in entries else node
    return YamlNode(entries, above.origin)


def _mark_rehearsal(overlay: YamlNode) -> YamlNode:
    return map_origins(overlay, lambda origin: origin._replace(section="rehearsal."))


def map_origins(node: YamlNode, change: Callable[[Origin], Origin]) -> YamlNode:
    """Copy a tree with other origins."""
    value = node.value
    if isinstance(value, dict):
        value = {key: map_origins(child, change) for key, child in value.items()}
    elif isinstance(value, list):
        value = [map_origins(child, change) for child in value]
    return node._replace(value=value, origin=change(node.origin))


class _MisplacedError(Exception):
    """A `--set` names a part of something that has no such part."""


def _put(node: YamlNode, keys: tuple[str, ...], new: YamlNode, done: tuple[str, ...] = ()) -> YamlNode:
    if not keys:
        return merge(node, new)
    key, rest = keys[0], keys[1:]
    if isinstance(node.value, list):
        count = len(node.value)
        if not key.isdecimal() or int(key) >= count:
            raise _MisplacedError(f"`{join_path(done)}` has {count} items, counted from 0; write one of their numbers")
        items = list(node.value)
        items[int(key)] = _put(items[int(key)], rest, new, (*done, key))
        return YamlNode(items, node.origin)
    if node.value is not None and not isinstance(node.value, dict):
        raise _MisplacedError(f"`{join_path(done)}` has no keys below it; write `--set {join_path(done)}=...`")
    entries = dict(node.value or {})
    entries[key] = _put(entries.get(key, YamlNode(None, new.origin)), rest, new, (*done, key))
    return YamlNode(entries, node.origin)


def _nest(keys: tuple[str, ...], node: YamlNode) -> YamlNode:
    for key in reversed(keys):
        node = YamlNode({key: node}, node.origin)
    return node


def _move(node: YamlNode, folder: str, place: str) -> YamlNode:
    return relocate(node, os.path.relpath(folder, place))


def relocate(node: YamlNode, folder: str) -> YamlNode:
    """Rewrite `./x` of a file in `folder`, so that it means the same seen from the folder above."""
    if folder == ".":
        return node
    value = node.value
    if isinstance(value, dict):
        value = {key: relocate(child, folder) for key, child in value.items()}
    elif isinstance(value, list):
        value = [relocate(child, folder) for child in value]
    elif isinstance(value, str) and value.startswith(("./", "../")):
        moved = os.path.normpath(os.path.join(folder, value))
        value = moved if moved.startswith("../") else f"./{moved}"
    return node._replace(value=value)
