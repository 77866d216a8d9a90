"""Real data that is not part of the project: tests that need it are skipped where it is not at hand."""

from pathlib import Path

import pytest

SHARED_DATA = Path(__file__).parents[3] / "shared" / "data"


def shared_data(name: str) -> Path:
    """A file or folder of the shared data, or the end of the test if it is not there."""
    path = SHARED_DATA / name
    if not path.exists():
        pytest.skip(f"needs {name} in ../shared/data")
    return path
