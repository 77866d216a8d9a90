"""A YAML file from the disk: decoded, parsed and searched for secrets."""

from dataclasses import replace
from functools import lru_cache
from pathlib import Path

from launcher.errors import Fault
from launcher.load.secret_scan import find_leaks, mask
from launcher.load.yaml_tree import Parsed, parse_yaml

MAX_BYTES = 5_000_000
"""Of a file. The longest recipe has a few thousand."""


def read_documents(path: Path) -> Parsed:
    """Read a YAML file: its documents, and every fault of its text."""
    try:
        with path.open("rb") as file:
            content = file.read(MAX_BYTES + 1)
        if len(content) > MAX_BYTES:
            message = f"is larger than {MAX_BYTES // 10**6} MB, so it is no recipe; check the path"
            return Parsed(faults=[Fault(str(path), None, "", message, "structure")])
        return _parse(str(path), content)
    except IsADirectoryError:
        return Parsed(faults=[Fault(str(path), None, "", "is a folder; name a file in it", "not-found")])
    except OSError as error:
        return Parsed(faults=[Fault(str(path), None, "", f"{error.strerror or error}; check the path", "not-found")])


@lru_cache(maxsize=64)
def _parse(file: str, content: bytes) -> Parsed:
    # Cached, since a thousand recipes may share their `base:`.
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        message = f"byte {content[error.start]:#04x} is not UTF-8; save the file as UTF-8"
        return Parsed(faults=[Fault(file, line, "", message, "syntax")])
    parsed = parse_yaml(text, file)
    leaks, secrets = find_leaks(text, [document.root for document in parsed.documents], file)
    return replace(parsed, faults=[mask(fault, secrets) for fault in parsed.faults] + leaks, secrets=secrets)
