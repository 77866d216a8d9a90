"""The file that `--html` of `launcher compare` writes."""

from collections.abc import Sequence
from pathlib import Path

from launcher.cli.verbosity import tell
from launcher.errors import LauncherError
from launcher.scores.scored_model import ScoredModel


def write_html(path: Path, page: str, models: Sequence[ScoredModel]) -> None:
    """Write a page; if it is about credentialed data, only its owner can read it.

    Raises:
        LauncherError: the path is not that of a page, or its folder is missing.
    """
    if path.suffix != ".html" or path.is_dir():
        raise LauncherError(f"--html {path}: write the path of a file that ends in `.html`")
    if not path.parent.is_dir():
        raise LauncherError(f"--html {path}: there is no folder `{path.parent}`; make it, or write another path")
    if any(model.scores.data_use != "open" for model in models):
        path.touch()
        path.chmod(0o600)
    path.write_text(page, encoding="utf-8")
    tell(f"written: {path}")
