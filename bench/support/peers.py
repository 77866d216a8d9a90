"""Environments for peers that do not belong into ours: made once, and again when what is installed changes."""

import hashlib
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from bench.support.unmeasured import UnmeasuredError

ROOT = Path(__file__).parents[2]
DECIDE = ("setup.cfg", "constraints.txt")
"""Files that decide what is installed."""


def peer_environment(
    name: str, packages: Sequence[str], unpinned: Sequence[str] = (), sees: Sequence[Path] = ()
) -> Path:
    """Make an environment in build/ unless it is there; return its folder of programs.

    Args:
        name: Of the environment.
        packages: What pip installs, in the versions of constraints.txt.
        unpinned: Packages of which the peer needs another version than that of constraints.txt, in small letters.
        sees: Folders of packages that are found there as well.

    Raises:
        UnmeasuredError: The package index cannot be reached, or does not have them.
    """
    folder = ROOT / "build" / name
    wanted = _fingerprint([*packages, "", *unpinned, "", *map(str, sees)])
    ready = folder / "ready"
    if not ready.exists() or ready.read_text() != wanted:
        subprocess.run([sys.executable, "-m", "venv", "--clear", str(folder)], check=True)
        site = next((folder / "lib").glob("python*/site-packages"))
        (site / "here.pth").write_text("".join(f"{one}\n" for one in dict.fromkeys(sees)))
        _install(folder, packages, unpinned)
        ready.write_text(wanted)
    return folder / "bin"


def _install(folder: Path, packages: Sequence[str], unpinned: Sequence[str]) -> None:
    pins = (ROOT / "constraints.txt").read_text(encoding="utf-8").split("\n")
    constraints = folder / "constraints.txt"
    constraints.write_text(
        "\n".join(pin for pin in pins if pin.partition("==")[0].lower() not in unpinned), encoding="utf-8"
    )
    environment = {**os.environ, "PIP_CONSTRAINT": str(constraints)}
    pip = [str(folder / "bin" / "python"), "-m", "pip", "--quiet", "--disable-pip-version-check"]
    done = subprocess.run(
        [*pip, "--retries", "1", "install", *packages], env=environment, capture_output=True, text=True, check=False
    )
    if done.returncode:
        said = done.stderr.strip().split("\n")[-1]
        raise UnmeasuredError(f"{', '.join(packages)} cannot be installed: {said}")


def _fingerprint(words: Sequence[str]) -> str:
    texts = [(ROOT / name).read_text(encoding="utf-8") for name in DECIDE]
    return hashlib.sha256("\0".join([sys.version, *texts, *words]).encode()).hexdigest()
