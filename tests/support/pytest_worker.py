"""Which of pytest's workers this is, and which ports are its own.

A port that is free when a test looks may be another worker's a second later, before the test's processes take it.
"""

import os

NUMBER = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
SHARE = 1000


def own_ports(ports: range) -> range:
    """The ports of a range that no other worker looks at, unless there are more workers than shares."""
    return ports[SHARE * NUMBER % len(ports) :][:SHARE]
