"""The tutorial's page, and the files that its reader writes."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "tutorial.md").read_text(encoding="utf-8")


def write_files(folder: Path) -> None:
    """Write the files of the page into a folder, beside the recipes that come with the launcher."""
    for name, text in re.findall(r'```yaml title="([\w.]+)"\n(.*?)```', PAGE, re.DOTALL):
        (folder / name).write_text(text, encoding="utf-8")
    (folder / "recipes").symlink_to(ROOT / "recipes")
