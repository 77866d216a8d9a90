"""One tree out of several: `base:` below the file, `rehearsal` and `--set` over it.

One rule everywhere: mappings are merged key by key, everything else is replaced.
"""

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from launcher.errors import Fault
from launcher.load.leaks import find_leaks
from launcher.load.nodes import MAX_DEPTH, Document, Node, Origin, join_path, parse_yaml
from launcher.load.read import read_documents


@dataclass
class Composer:
    """Puts trees together and collects what is wrong with them."""

    faults: list[Fault] = field(default_factory=list)
    secrets: set[str] = field(default_factory=set)

    def read(self, path: Path) -> list[Document]:
        """Read the documents of a file that are not empty."""
        parsed = read_documents(path)
        self.faults += parsed.faults
        self.secrets |= parsed.secrets
        documents = [document for document in parsed.documents if document.root.value is not None]
        if not documents and not parsed.faults:
            self.faults.append(Fault(str(path), None, "", "the file is empty; see the examples under `recipes/`"))
        return documents

    def lay_on_base(self, root: Node, path: Path, chain: tuple[Path, ...] = ()) -> Node:
        """Lay a document over the file that its `base:` names, and that over its own base, and so on.

        Args:
            root: The document.
            path: The file it was read from; `base:` is relative to it.
            chain: The files that led here.
        """
        if not isinstance(root.value, dict) or "base" not in root.value:
            return root
        base = root.value["base"]
        rest = Node({key: node for key, node in root.value.items() if key != "base"}, root.origin)
        base_path = Path(os.path.normpath(path.parent / base.text))
        chain = (*chain, path)
        if not isinstance(base.value, str):
            self._refuse(base, "base", "name one file: `base: other.yaml`")
        elif any(base_path.absolute() == link.absolute() for link in chain):
            loop = " -> ".join(str(link) for link in (*chain, base_path))
            self._refuse(base, "base", f"the files are each other's base ({loop}); break the loop")
        elif not base_path.is_file():
            self._refuse(base, "base", f"there is no file `{base_path}`; the path is relative to this file")
        elif len(documents := self.read(base_path)) > 1:
            self._refuse(base, "base", f"`{base.text}` holds {len(documents)} documents; a base holds one")
        elif documents:
            below = self.lay_on_base(documents[0].root, base_path, chain)
            return merge(_relocate(below, os.path.relpath(base_path.parent, path.parent)), rest)
        return rest

    def set_all(self, root: Node, overrides: Sequence["Override"]) -> Node:
        """Lay the values of `--set` over a document."""
        for override in overrides:
            try:
                root = _put(root, override.keys, override.value)
            except _MisplacedError as error:
                self.faults.append(Fault(override.value.origin.file, None, "", str(error)))
        return root

    def parse_overrides(self, texts: Sequence[str]) -> list["Override"]:
        """Parse the values of `--set`."""
        return [override for text in texts if (override := self._parse_override(text))]

    def _parse_override(self, text: str) -> "Override | None":
        name, equals, value = text.partition("=")
        keys = tuple(name.split("."))
        if not equals or not all(keys) or len(keys) > MAX_DEPTH:
            self.faults.append(Fault(f"--set {name}", None, "", "is not an assignment; write `--set optim.lr=1e-5`"))
            return None
        origin = Origin(f"--set {name}", None)
        parsed = parse_yaml(value, origin.file)
        root = parsed.documents[0].root if parsed.documents else Node(None, origin, is_refused=bool(parsed.faults))
        node = map_origins(root, lambda _: origin)
        leaks, secrets = find_leaks(text, [_nest(keys, node)], origin.file)
        self.secrets |= secrets
        self.faults += [Fault(fault.file, None, "", fault.message) for fault in [*parsed.faults, *leaks[:1]]]
        if len(parsed.documents) > 1:
            self.faults.append(Fault(origin.file, None, "", "holds several YAML documents; write one value"))
        return Override(keys, node)

    def _refuse(self, node: Node, key: str, message: str) -> None:
        self.faults.append(Fault(node.origin.file, node.origin.line, key, message))


@dataclass(frozen=True)
class Override:
    """One `--set a.b=c`."""

    keys: tuple[str, ...]
    value: Node


def merge(below: Node, above: Node) -> Node:
    """Lay a tree over another: mappings are merged, everything else is replaced."""
    if not isinstance(below.value, dict) or not isinstance(above.value, dict):
        return above
    entries = dict(below.value)
    for key, node in above.value.items():
        entries[key] = merge(entries[key], node) if key in entries else node
    return Node(entries, above.origin)


def lay_rehearsal(root: Node) -> Node:
    """Lay the `rehearsal` of a recipe over it; the name gets `-rehearsal` unless the overlay sets one."""
    assert isinstance(root.value, dict)
    entries = {key: node for key, node in root.value.items() if key != "rehearsal"}
    if name := entries.get("name"):
        entries["name"] = name._replace(value=f"{name.value}-rehearsal")
    overlay = map_origins(root.value["rehearsal"], lambda origin: origin._replace(section="rehearsal."))
    return merge(Node(entries, root.origin), overlay._replace(origin=root.origin))


def map_origins(node: Node, change: Callable[[Origin], Origin]) -> Node:
    """Copy a tree with other origins."""
    value = node.value
    if isinstance(value, dict):
        value = {key: map_origins(child, change) for key, child in value.items()}
    elif isinstance(value, list):
        value = [map_origins(child, change) for child in value]
    return node._replace(value=value, origin=change(node.origin))


class _MisplacedError(Exception):
    """A `--set` goes through something that has no such part."""


def _put(node: Node, keys: tuple[str, ...], new: Node, done: tuple[str, ...] = ()) -> Node:
    if not keys:
        return merge(node, new)
    key, rest = keys[0], keys[1:]
    if isinstance(node.value, list):
        count = len(node.value)
        if not key.isdecimal() or int(key) >= count:
            raise _MisplacedError(f"`{join_path(done)}` has {count} items, counted from 0; write one of their numbers")
        items = list(node.value)
        items[int(key)] = _put(items[int(key)], rest, new, (*done, key))
        return Node(items, node.origin)
    if node.value is not None and not isinstance(node.value, dict):
        raise _MisplacedError(f"`{join_path(done)}` is a value without parts; write `--set {join_path(done)}=...`")
    entries = dict(node.value or {})
    entries[key] = _put(entries.get(key, Node(None, new.origin)), rest, new, (*done, key))
    return Node(entries, node.origin)


def _nest(keys: tuple[str, ...], node: Node) -> Node:
    for key in reversed(keys):
        node = Node({key: node}, node.origin)
    return node


def _relocate(node: Node, folder: str) -> Node:
    """Rewrite `./x` of a file in `folder`, so that it means the same seen from the folder above."""
    if folder == ".":
        return node
    value = node.value
    if isinstance(value, dict):
        value = {key: _relocate(child, folder) for key, child in value.items()}
    elif isinstance(value, list):
        value = [_relocate(child, folder) for child in value]
    elif isinstance(value, str) and value.startswith(("./", "../")):
        moved = os.path.normpath(os.path.join(folder, value))
        value = moved if moved.startswith("../") else f"./{moved}"
    return node._replace(value=value)
