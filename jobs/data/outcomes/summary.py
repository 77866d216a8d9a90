"""What a run of `outcomes` made: its manifest, and what it tells in the log."""

import hashlib
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

from jobs.data.outcomes.inputs import OutcomesPlan
from jobs.data.outcomes.writing import OutcomeWriter
from jobs.rank.context import Context
from launcher.artifacts.outcomes_manifest import PUBLISHED_SIZES, OutcomesManifest, decisive_settings
from launcher.recipe.sections.labelled_notes import NOTE_SPLITS, NoteSplit


def manifest_of(
    plan: OutcomesPlan, context: Context, folder: Path, writer: OutcomeWriter, left_out: Counter[str]
) -> OutcomesManifest:
    """Record what the tables were made of, what was left out and why, and their sizes.

    Args:
        plan: What was read.
        context: This run.
        folder: Where the tables are.
        writer: Has written them.
        left_out: Admissions that were left out of all of them, by the reason.
    """
    recipe = plan.recipe
    counts = [("admissions", left_out), *writer.left_out.items()]
    published = PUBLISHED_SIZES if recipe.source.format == "mimic_iii" else {}
    return OutcomesManifest(
        run=context.record.id,
        code=context.code_version,
        data_use=recipe.data_use,
        settings=decisive_settings(recipe),
        fingerprint=plan.fingerprint,
        tables=plan.read,
        left_out={of: {reason: count for reason, count in its.items() if count} for of, its in counts},
        sizes={outcome: dict(sizes) for outcome, sizes in writer.sizes.items()},
        published_sizes={outcome: published[outcome] for outcome in writer.sizes if outcome in published},
        checksums={path.name: _checksum(path) for path in sorted(folder.iterdir())},
    )


def _checksum(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def describe_outcomes(manifest: OutcomesManifest) -> list[str]:
    """Say what the tables hold, beside the published sizes, and what was left out and why."""
    lines = [f"admissions left out of all outcomes: {_counts(manifest.left_out['admissions']) or 'none'}"]
    for outcome, sizes in manifest.sizes.items():
        published = manifest.published_sizes.get(outcome)
        beside = f" (published: {_sizes(published)})" if published else ""
        gone = _counts(manifest.left_out[outcome])
        lines.append(f"{outcome}: {_sizes(sizes)}{beside}" + (f"; left out: {gone}" if gone else ""))
    return lines


def _sizes(sizes: Mapping[NoteSplit, int]) -> str:
    return ", ".join(f"{split} {sizes[split]:,}" for split in NOTE_SPLITS)


def _counts(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{count:,} ({reason})" for reason, count in counts.items())
