"""What a bench says where something cannot be measured: one line, and an exit code that `.ci/bench` knows."""

NOT_MEASURED = 3
"""Exit code of a bench that missed nothing but measured nothing, or not all that it should."""


class UnmeasuredError(Exception):
    """Says what is lacking."""


def not_measured(why: object) -> int:
    """Say why something is not measured; return the exit code."""
    print(f"not measured: {why}")
    return NOT_MEASURED
