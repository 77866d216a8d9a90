"""`launcher chat` as a person starts it here, with a model of credentialed data, and where it could write."""

import json
import os
import shutil
import stat
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import pexpect

from tests.support.chat_subjects import LORA, STORIES
from tests.support.checkouts import ROOT, typing

_ELSEWHERE = ("/dev/shm", "/tmp/gradio", "~/.gradio", "~/.python_history", "~/.cache/gradio")
"""What programs of this kind write to, whatever HOME and TMPDIR say."""


@dataclass(frozen=True)
class ChatHome:
    """A home, a folder for temporary files, and a site with the shipped Llama as if it had learned from patients."""

    folder: Path
    began: float = field(default_factory=time.time)

    @classmethod
    def make(cls, folder: Path) -> "ChatHome":
        """Make them below a folder."""
        shutil.copytree(STORIES, folder / "models" / "llama")
        (folder / "models" / "llama" / "manifest.json").write_text(json.dumps({"data_use": "credentialed"}))
        shutil.copytree(LORA, folder / "models" / "lora")
        config = folder / "models" / "lora" / "adapter_config.json"
        config.write_text(config.read_text().replace('"stories260k"', '"llama"'))
        roots = "{runs: runs, corpora: corpora, models: models, data: .}"
        profile = f"name: here\nexecutor: local\nroots: {roots}\ngpus: {{device: cpu}}\n"
        (folder / "cluster.yaml").write_text(profile)
        for name in ("home", "tmp"):
            (folder / name).mkdir()
        return cls(folder)

    @contextmanager
    def chat(self, *arguments: str) -> Iterator["pexpect.spawn[str]"]:
        """Type `launcher chat llama ARGUMENTS` on a terminal."""
        environment = {
            "HOME": str(self.folder / "home"),
            "TMPDIR": str(self.folder / "tmp"),
            "XDG_CACHE_HOME": str(self.folder / "home" / "cache"),
            "LAUNCHER_CLUSTER": str(self.folder / "cluster.yaml"),
            "OMP_NUM_THREADS": "1",
        }
        with typing(ROOT, environment, "chat", "llama", *arguments, "--cpus", "1") as terminal:
            yield terminal

    def files_with(self, *texts: str) -> list[Path]:
        """List the files that hold one of some texts: here, and among this user's new ones elsewhere."""
        files = [path for path in self.folder.rglob("*") if path.is_file()]
        files += [path for place in _ELSEWHERE for path in _new_files(Path(place).expanduser(), self.began)]
        return [path for path in files if any(text.encode() in _content(path) for text in texts)]


def _new_files(place: Path, since: float) -> Iterator[Path]:
    """Find files of this user that were written since a moment: a file, or those in a folder, in which others write."""
    inside = (Path(folder, name) for folder, _, names in os.walk(place) for name in names)
    for path in (place, *inside):
        with suppress(OSError):
            info = path.stat()
            # File systems round times down, by less than a second.
            if stat.S_ISREG(info.st_mode) and info.st_uid == os.geteuid() and info.st_mtime >= since - 1:
                yield path


def _content(path: Path) -> bytes:
    with suppress(OSError):  # of another program, which has removed it since
        return path.read_bytes()
    return b""


def listening_addresses(process: int) -> set[str]:
    """Return the addresses, in hexadecimal as the kernel writes them, on which a process listens (proc(5))."""
    links = [os.readlink(path) for path in Path(f"/proc/{process}/fd").iterdir() if path.is_symlink()]
    own = {link.removeprefix("socket:[").removesuffix("]") for link in links if link.startswith("socket:")}
    rows = []
    for name in ("tcp", "tcp6"):
        rows += [line.split() for line in Path(f"/proc/{process}/net/{name}").read_text().splitlines()[1:]]
    return {row[1].partition(":")[0] for row in rows if row[3] == "0A" and row[9] in own}


def writable_files(process: int) -> list[str]:
    """List the files on a disk that a process has open for writing."""
    found = []
    for descriptor in Path(f"/proc/{process}/fd").iterdir():
        info = Path(f"/proc/{process}/fdinfo/{descriptor.name}").read_text()
        flags = next(int(line.split()[1], 8) for line in info.splitlines() if line.startswith("flags:"))
        target = os.readlink(descriptor)
        if flags & (os.O_WRONLY | os.O_RDWR) and target.startswith("/") and not target.startswith("/dev/"):
            found.append(target)
    return found
