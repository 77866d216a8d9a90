"""What the tests on Slurm said with one version of it: into slurm-versions.json and the table of installing.md.

python docs/slurm_versions.py VERSION RELEASE JUNIT-FILE
"""

import json
import platform
import sys
from datetime import date
from pathlib import Path
from typing import Any

from lxml import etree

DOCS = Path(__file__).parent
RESULTS, PAGE = DOCS / "slurm-versions.json", DOCS / "installing.md"
BEGIN, END = "<!-- slurm versions: begin -->\n", "<!-- slurm versions: end -->\n"


def outcome(junit: Path) -> dict[str, Any]:
    """Count what a file of pytest's `--junitxml` says, and name what failed."""
    cases = etree.parse(junit).findall(".//testcase")
    failed = [f"{case.get('classname')}::{case.get('name')}" for case in cases if case.find("failure") is not None]
    failed += [f"{case.get('classname')}::{case.get('name')}" for case in cases if case.find("error") is not None]
    skipped = sum(case.find("skipped") is not None for case in cases)
    return {"passed": len(cases) - len(failed) - skipped, "skipped": skipped, "failed": sorted(failed)}


def table(results: dict[str, dict[str, Any]]) -> str:
    """The results for people, by version."""
    rows = [["Slurm", "from Debian", "Python", "passed", "failed", "skipped", "on"], ["---"] * 7]
    for version, seen in sorted(results.items()):
        counts = [str(seen["passed"]), str(len(seen["failed"])), str(seen["skipped"])]
        rows.append([version, seen["release"], seen["python"], *counts, seen["date"]])
    return "".join(f"| {' | '.join(row)} |\n" for row in rows)


def main(version: str, release: str, junit: str) -> None:
    """Put one result on record."""
    results = json.loads(RESULTS.read_text(encoding="utf-8")) if RESULTS.exists() else {}
    about = {"release": release, "python": platform.python_version(), "date": str(date.today())}
    results[version] = {**about, **outcome(Path(junit))}
    RESULTS.write_text(json.dumps(results, indent=1, sort_keys=True) + "\n", encoding="utf-8")
    before, _, rest = PAGE.read_text(encoding="utf-8").partition(BEGIN)
    PAGE.write_text(before + BEGIN + table(results) + END + rest.partition(END)[2], encoding="utf-8")


if __name__ == "__main__":
    main(*sys.argv[1:])
