"""A YAML file from the disk: decoded, parsed, searched for secrets, and kept until it changes."""

from dataclasses import replace
from functools import lru_cache
from pathlib import Path

from launcher.errors import Fault
from launcher.load.leaks import find_leaks, mask
from launcher.load.nodes import Parsed, parse_yaml


def read_documents(path: Path) -> Parsed:
    """Read a YAML file: its documents, and every fault of its text.

    The last files are kept: a thousand recipes with one `base:` read it once.
    """
    try:
        status = path.stat()
        return _read_version(path, status.st_mtime_ns, status.st_size)
    except OSError as error:
        return Parsed(faults=[Fault(str(path), None, "", f"{error.strerror or error}; check the path")])


@lru_cache(maxsize=64)
def _read_version(path: Path, _mtime_ns: int, _size: int) -> Parsed:
    file, content = str(path), path.read_bytes()
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        message = f"byte {content[error.start]:#04x} is not UTF-8; save the file as UTF-8"
        return Parsed(faults=[Fault(file, line, "", message)])
    parsed = parse_yaml(text, file)
    leaks, secrets = find_leaks(text, [document.root for document in parsed.documents], file)
    return replace(parsed, faults=[mask(fault, secrets) for fault in parsed.faults] + leaks, secrets=secrets)
