"""The names of launcher.corpus, for modules that still import them from here."""

from jobs.data.durable import replace_durably, write_durably
from launcher.corpus import (
    FORMAT,
    MANIFEST,
    SPLITS,
    IdFormat,
    Manifest,
    Shard,
    SourceFile,
    Split,
    SplitRule,
    Tally,
    TokenizerRecord,
    file_sha256,
    read_manifest,
)

__all__ = [
    "FORMAT", "MANIFEST", "SPLITS", "IdFormat", "Manifest", "Shard", "SourceFile", "Split", "SplitRule", "Tally",
    "TokenizerRecord", "file_sha256", "read_manifest", "replace_durably", "write_durably",
]  # fmt: skip
