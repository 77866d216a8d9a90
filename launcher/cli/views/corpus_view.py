"""What `launcher corpus show` and `diff` print, as rich tables and lines; it fits into 80 columns."""

import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import PurePath
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from launcher.artifacts.corpus_manifest import (
    SPLITS,
    TERMINOLOGY_COUNTS,
    EvaluationSet,
    Manifest,
    SourceFile,
    Split,
    Tally,
)
from launcher.cli.views.wording import file_size
from launcher.corpora.difference import Difference
from launcher.corpora.find import PublishedCorpus
from launcher.corpora.lengths import Lengths, packings
from launcher.recipe.kinds.prepare import Clean

_SHOWN = 10
"""Rows of a table before the rest is summed up."""
_FOLDER_WIDTH = 24


def report_of(corpus: PublishedCorpus, lengths: Mapping[Split, Lengths], sequence_length: int | None) -> dict[str, Any]:
    """Put together what `show --json` prints: the manifest, and what was measured."""
    measured = {
        split: {
            "mean": round(each.mean, 2),
            "median": each.quantile(0.5),
            "percentile_90": each.quantile(0.9),
            "longest": each.longest,
            "sequences": sequence_length
            and {name: asdict(one) for name, one in packings(each, sequence_length).items()},
        }
        for split, each in lengths.items()
    }
    bytes_on_disk = sum(corpus.manifest.sizes().values())
    manifest = corpus.manifest.model_dump(mode="json")
    return {"folder": str(corpus.folder), "bytes": bytes_on_disk, "document_tokens": measured, "manifest": manifest}


def print_corpus(corpus: PublishedCorpus, lengths: Mapping[Split, Lengths], sequence_length: int | None) -> None:
    """Print everything about a corpus."""
    out, manifest = Console(highlight=False, markup=False, emoji=False), corpus.manifest
    color = "yellow" if manifest.data_use == "credentialed" else "green"
    out.print(Text.assemble((manifest.corpus, "bold"), "  ", (manifest.data_use, color)))
    for label, text in _details(corpus):
        out.print(f"  {label:<11} {text}", soft_wrap=True)
    out.print()
    out.print(_splits_table(manifest.counts, lengths))
    if sequence_length and lengths:
        out.print()
        out.print(_sequences_table(lengths["train"], sequence_length))
    for table in _tables(manifest):
        if table.rows:
            out.print()
            out.print(table)


def _details(corpus: PublishedCorpus) -> Iterator[tuple[str, str]]:
    manifest, tokenizer = corpus.manifest, corpus.manifest.tokenizer
    number = len(corpus.manifest.all_shards)
    yield "folder", str(corpus.folder)
    yield "on disk", f"{file_size(sum(corpus.manifest.sizes().values()))} in {number} shard{'s' * (number != 1)}"
    starts = f"start with {' '.join(map(str, tokenizer.prefix))} and " if tokenizer.prefix else ""
    yield "tokenizer", f"{tokenizer.path}: {tokenizer.vocab_size:,} ids ({manifest.dtype})"
    yield "", f"documents {starts}end with {tokenizer.eos}; SHA-256 {tokenizer.fingerprint[:12]}"
    yield "validation", f"{manifest.split.validation * 100:.4g}% of the {_split_units(manifest)}, by a hash"
    for number, text in enumerate(_unusual(manifest) or ["nothing but the defaults"]):
        yield "" if number else "clean", text
    yield "made by", f"launcher {manifest.code}"
    yield "fingerprint", manifest.fingerprint[:12]


def _split_units(manifest: Manifest) -> str:
    """Say what the split keeps whole: notes of MIMIC go by their patient."""
    units = {"patients" if source.format.startswith("mimic") else "documents" for source in manifest.sources}
    return " and ".join(sorted(units)) or "documents"


def _unusual(manifest: Manifest) -> list[str]:
    usual = Clean().model_dump(mode="json")
    return [f"{key}: {_brief(value)}" for key, value in manifest.clean.items() if (key, value) not in usual.items()]


def _brief(value: Any) -> str:
    """Write a value on one line, as YAML would."""
    if isinstance(value, dict):
        return f"{{{', '.join(f'{key}: {_brief(one)}' for key, one in value.items())}}}"
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(_brief, value))}]"
    return value if isinstance(value, str) else json.dumps(value)


def _tables(manifest: Manifest) -> Iterator[Table]:
    yield _records_table(manifest.counts)
    yield _decontamination_table(manifest.decontamination)
    yield _phi_table(manifest.counts)
    yield _terminology_table(manifest)
    yield _licenses_table(manifest.counts)
    yield _sources_table(manifest.sources)


def _terminology_table(manifest: Manifest) -> Table:
    index = manifest.terminology.index if manifest.terminology else ""
    table = _table(f"terms of {index}", ">number")
    for what, count in manifest.counts.terminology.items():
        table.add_row(TERMINOLOGY_COUNTS[what], f"{count:,}")
    return table


def _splits_table(counts: Tally, lengths: Mapping[Split, Lengths]) -> Table:
    table = _table("", ">documents", ">tokens", *((">mean", ">median", ">90 %", ">longest") if lengths else ()))
    for split in SPLITS:
        cells = [split, f"{counts.documents[split]:,}", f"{counts.tokens[split]:,}"]
        if each := lengths.get(split):
            measured = (round(each.mean), each.quantile(0.5), each.quantile(0.9), each.longest)
            cells += [f"{number:,}" if each.counts else "" for number in measured]
        table.add_row(*cells)
    return table


def _sequences_table(lengths: Lengths, sequence_length: int) -> Table:
    table = _table(f"sequences of {sequence_length:,} (train)", ">sequences", ">tokens lost", ">padding")
    for name, packing in packings(lengths, sequence_length).items():
        table.add_row(name, f"{packing.sequences:,}", _percent(packing.lost), _percent(packing.padding))
    return table


def _records_table(counts: Tally) -> Table:
    table = _table("", ">records", ">of those read")
    rows = [("read", counts.records), ("kept", sum(counts.documents.values()))]
    rows += [(f"dropped: {reason}", number) for reason, number in counts.dropped.items()]
    rows += [("unreadable", counts.bad_records)]
    rows += [(f"unreadable: {reason}", number) for reason, number in counts.bad_reasons.items()]
    for name, number in rows:
        table.add_row(name, f"{number:,}", _percent(number / counts.records) if counts.records else "")
    return table


def _decontamination_table(sets: Iterable[EvaluationSet]) -> Table:
    table = _table("evaluation set", ">documents dropped", ">its records", ">found")
    for its in sets:
        table.add_row(PurePath(its.path).name, f"{its.documents:,}", f"{its.records:,}", f"{its.found:,}")
    return table


def _phi_table(counts: Tally) -> Table:
    table = _table("looks like patients' data", ">found")
    for pattern, number in counts.phi.items():
        table.add_row(pattern, f"{number:,}")
    return table


def _licenses_table(counts: Tally) -> Table:
    table = _table("licence", ">documents", ">share")
    total = sum(counts.licenses.values())
    ranked = sorted(counts.licenses.items(), key=lambda pair: -pair[1])
    rows = ranked[:_SHOWN]
    if rest := ranked[_SHOWN:]:
        rows.append((f"{len(rest):,} others", sum(number for _, number in rest)))
    for name, number in rows:
        table.add_row(name, f"{number:,}", _percent(number / total))
    return table


def _sources_table(sources: Iterable[SourceFile]) -> Table:
    """Make a row for each folder of files with the same format and licence."""
    groups: dict[tuple[str, str, str], list[SourceFile]] = {}
    for source in sources:
        groups.setdefault((source.format, str(PurePath(source.path).parent), source.license), []).append(source)
    table = _table("source", ">files", ">size", ">documents", ">tokens", "folder", "licence")
    table.columns[5].no_wrap = True
    for (name, folder, license_), files in list(groups.items())[:_SHOWN]:
        table.add_row(name, *_sizes(files), _end_of(folder), license_)
    if rest := [file for files in list(groups.values())[_SHOWN:] for file in files]:
        table.add_row("others", *_sizes(rest), f"{len(groups) - _SHOWN:,} more")
    return table


def _sizes(files: Sequence[SourceFile]) -> tuple[str, str, str, str]:
    number, size = f"{len(files):,}", file_size(sum(file.size for file in files))
    if not all(file.documents for file in files):  # an older launcher did not count them by file
        return number, size, "", ""
    documents = sum(sum(file.documents.values()) for file in files)
    tokens = sum(sum(file.tokens.values()) for file in files)
    return number, size, f"{documents:,}", f"{tokens:,}"


def _end_of(folder: str) -> str:
    parts = PurePath(folder).parts
    while len(parts) > 1 and len(folder) > _FOLDER_WIDTH:
        parts = parts[1:]
        folder = f".../{PurePath(*parts)}"
    return folder


def print_differences(left: PublishedCorpus, right: PublishedCorpus, differences: Sequence[Difference]) -> None:
    """Print how two corpora differ, by topic."""
    out = Console(highlight=False, markup=False, emoji=False)
    for sign, corpus in (("A", left), ("B", right)):
        out.print(f"{sign}  {corpus.manifest.corpus}  {corpus.folder}", soft_wrap=True)
    for topic in dict.fromkeys(one.topic for one in differences if one.matters):
        _print_topic(out, topic, [one for one in differences if one.topic == topic])
    if not any(one.matters for one in differences):
        out.print("equal: sources, settings, tokenizer, counts and shards")
    if origins := [one for one in differences if not one.matters]:
        _print_topic(out, "makes no difference", origins)


def _print_topic(out: Console, title: str, differences: Sequence[Difference]) -> None:
    out.print(f"\n{title}", style="bold")
    for one in differences[:_SHOWN]:
        out.print(f"  {_wording(one)}", soft_wrap=True)
    if len(differences) > _SHOWN:
        out.print(f"  and {len(differences) - _SHOWN:,} more (`--json` has all)", style="dim")


def _wording(one: Difference) -> str:
    if one.topic == "sources" and one.left and one.right:
        keys = [key for key in one.left if one.left[key] != one.right[key]]
        changed = (f"{key} {_fact(one.left[key])} -> {_fact(one.right[key])}" for key in keys)
        return f"changed    {one.what}: {', '.join(changed)}"
    if one.topic == "sources":
        return f"only in {'A' if one.left else 'B'}  {one.what}"
    if one.topic == "shards":
        return f"{one.what}: {one.left['shards']} -> {one.right['shards']}, {one.left['in_both']} of them equal"
    change = f" ({one.right - one.left:+,})" if one.topic == "counts" else ""
    return f"{one.what}: {_fact(one.left)} -> {_fact(one.right)}{change}"


def _fact(value: Any) -> str:
    if isinstance(value, str) and re.fullmatch("[0-9a-f]{64}", value):
        return value[:12]
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else _brief(value)


def _percent(share: float) -> str:
    return f"{share:.1%}"


def _table(*names: str) -> Table:
    """Make a table; names of columns of numbers start with `>`."""
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    for name in names:
        justify: Any = "right" if name.startswith(">") else "left"
        table.add_column(name.removeprefix(">"), justify=justify, no_wrap=name.startswith(">"), overflow="fold")
    return table
