"""How fast terms are found and normalised, beside what people use to find them.

Real abstracts in memory, one process, an index of some 25,000 terms. Cases: `find`, the mentions of terms (whole words,
longest first, plurals, capitals of abbreviations); `normalise`, all of `clean.terminology`'s first step, with
definitions and meanings of abbreviations and the check that nothing changes any more. Peers, on the same text with the
same terms: (a) one compiled regular expression, an alternation of all terms, the longest first, between word borders;
(b) pyahocorasick's automaton with the same borders, longest match. Neither knows plurals or capitals.
Each measurement is a fresh process, loading not counted; cases take turns. Memory is what the resident set grows by
while a document of a million characters, a book, is worked on; the index is not counted.

    python bench/terminology.py [--rounds 3] [--json] [--smallest]

The text is the 12,910 abstracts and the terms are MeSH 2015 and the Disease Ontology's slims of ../shared/data where
they are at hand. Without them the smallest form runs, on what comes with the launcher: too little to judge anything.
"""

import argparse
import json
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING, Any

sys.path.insert(0, str(Path(__file__).parents[1]))

from bench.support.unmeasured import not_measured

if TYPE_CHECKING:
    from jobs.data.terminology.concept import Concept

ROOT = Path(__file__).parents[1]
ASSETS = ROOT / "recipes" / "assets"
DATA = ROOT.parent / "shared" / "data"
MESH_TERMS = 23_000
"""Names of MeSH in the index, to which the Disease Ontology adds its own."""
BARS = {("find", "regex"): 120.0, ("find", "automaton"): 0.3, ("normalise", "automaton"): 0.2}
"""Least times the peer's MB/s."""
MOST_MEMORY = 25.0
"""MB beside the index."""
LONGEST = 1_000_000
"""Characters of a long document, a book."""
REGEX_TEXTS = 20
"""Texts for the regular expression, which takes seconds for each."""


def main() -> int:
    options = _parse()
    if options.case:
        print(json.dumps(CASES[options.case](Path(options.folder), options.smallest)))
        return 0
    results: dict[str, list[dict[str, float]]] = {}
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        terms = _make_index(Path(folder), options.smallest)
        for turn in range(options.rounds + 1):
            for case in sorted(CASES, reverse=bool(turn % 2)):
                measured = _measure(case, folder, options.smallest)
                if turn or options.smallest:
                    results.setdefault(case, []).append(measured)
    return _report(results, terms, options)


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Finding and normalising terms, beside a regex and an automaton.")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--smallest", action="store_true")
    parser.add_argument("--case", help=argparse.SUPPRESS)
    parser.add_argument("--folder", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if not options.case:
        options.is_too_little = not options.smallest and not (DATA / "terminology" / "mesh2015_terms.tsv.gz").exists()
        options.smallest |= options.is_too_little
        options.rounds = 0 if options.smallest else options.rounds
    return options


def _make_index(folder: Path, smallest: bool) -> int:
    """Write the index that all cases use; return the number of its terms."""
    from jobs.data.readers.source_stream import SourceStream
    from jobs.data.terminology.index_tables import IndexTables
    from jobs.data.terminology.term_sources import read_mesh, read_obo
    from launcher.recipe.sections.terminology import MeshTerms, OboTerms
    from tests.support.term_indexes import write_tables

    tables, terms = IndexTables(), DATA / "terminology"
    paths = [ASSETS / "terminology" / "doid_cancer.obo.gz"] if smallest else sorted(terms.glob("DO_*.obo.gz"))
    tables.add(read_obo(map(SourceStream, paths), OboTerms(format="obo", files="x"), Counter()), Counter())
    if not smallest:
        table = [SourceStream(terms / "mesh2015_terms.tsv.gz")]
        tables.add(_first(read_mesh(table, MeshTerms(format="mesh", files="x"), Counter(), []), MESH_TERMS), Counter())
    tables.decide()
    return len(write_tables(folder, tables).senses)


def _first(concepts: "Iterable[Concept]", room: int) -> "Iterator[Concept]":
    """Give concepts that have so many names."""
    for one in concepts:
        room -= 1 + len(one.synonyms)
        if room < 0:
            return
        yield one


def _texts(smallest: bool) -> list[str]:
    import zstandard

    shipped = ASSETS / "pubmed_abstracts.jsonl.zst"
    more = DATA / "pubmed" / "pile" / "pubmed_abstracts.jsonl.zst"
    with zstandard.open(shipped if smallest else more, "rt", encoding="utf-8") as file:
        return [json.loads(line)["text"] for line in file]


def _timed(work: Callable[[str], int], texts: list[str]) -> dict[str, float]:
    """Work on all texts; return MB/s of processor time, the finds, and the memory that a very long text takes."""
    work(texts[0])
    started = time.process_time()
    found = sum(map(work, texts))
    seconds = time.process_time() - started
    size = sum(len(text.encode()) for text in texts) / 1e6
    return {"speed": size / seconds, "found": found, "memory": _memory(work, "\n".join(texts)[:LONGEST])}


def _memory(work: Callable[[str], int], text: str) -> float:
    """Return by how many MB the resident set grows while one text is worked on."""
    Path("/proc/self/clear_refs").write_text("5")  # the peak so far is forgotten
    before = _status("VmRSS")
    work(text)
    return _status("VmHWM") - before


def _status(key: str) -> float:
    """Read a size of this process from the kernel, in MB."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith(f"{key}:"))


def find(folder: Path, smallest: bool) -> dict[str, float]:
    """Our mentions."""
    from jobs.data.terminology.term_index import TermIndex

    index = TermIndex(folder)
    return _timed(lambda text: sum(1 for _ in index.mentions(text)), _texts(smallest))


def normalise(folder: Path, smallest: bool) -> dict[str, float]:
    """Our first step."""
    from jobs.data.terminology.normalise import normalised
    from jobs.data.terminology.term_index import TermIndex

    index = TermIndex(folder)
    return _timed(lambda text: normalised(text, index).counts["normalised"], _texts(smallest))


def regex(folder: Path, smallest: bool) -> dict[str, float]:
    """(a) An alternation of all terms."""
    from jobs.data.terminology.term_index import TermIndex

    keys = sorted(TermIndex(folder).senses, key=len, reverse=True)
    pattern = re.compile(rf"\b(?:{'|'.join(map(re.escape, keys))})\b")
    return _timed(lambda text: sum(1 for _ in pattern.finditer(text.lower())), _texts(smallest)[:REGEX_TEXTS])


def automaton(folder: Path, smallest: bool) -> dict[str, float]:
    """(b) An automaton of all terms; matches inside words are left out, and the longest of each place stays."""
    import ahocorasick

    from jobs.data.terminology.term_index import TermIndex

    machine = ahocorasick.Automaton()
    for key in TermIndex(folder).senses:
        machine.add_word(key, len(key))
    machine.make_automaton()

    def count(text: str) -> int:
        low, longest = text.lower(), dict[int, int]()
        for end, length in machine.iter(low):
            start = end + 1 - length
            if not (start and low[start - 1].isalnum()) and not low[end + 1 : end + 2].isalnum():
                longest[start] = end
        free, found = 0, 0
        for start in sorted(longest):
            if start >= free:
                free, found = longest[start] + 1, found + 1
        return found

    return _timed(count, _texts(smallest))


CASES: dict[str, Callable[[Path, bool], dict[str, float]]] = {
    "find": find,
    "normalise": normalise,
    "regex": regex,
    "automaton": automaton,
}


def _measure(case: str, folder: str, smallest: bool) -> dict[str, float]:
    """Measure one case in a process of its own."""
    command = [sys.executable, __file__, "--case", case, "--folder", folder, *(["--smallest"] if smallest else [])]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{case}: {done.stderr[-3000:]}")
    measured: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return measured


def _report(results: dict[str, list[dict[str, float]]], terms: int, options: argparse.Namespace) -> int:
    medians: dict[str, Any] = {
        case: {what: statistics.median(one[what] for one in its) for what in its[0]} for case, its in results.items()
    }
    if options.json:
        print(json.dumps({"date": str(date.today()), "terms": terms, "cases": medians}, indent=1))
    print(f"{date.today()}: {terms:,} terms, one process, medians of {max(1, options.rounds)} rounds")
    for case, its in medians.items():
        ratio = its["speed"] / medians["automaton"]["speed"]
        print(f"  {case:<10} {its['speed']:8.3f} MB/s  {ratio:6.2f} x automaton  memory + {its['memory']:.1f} MB")
    if options.is_too_little:
        return not_measured(f"without {DATA / 'terminology'} there are too few terms to judge by")
    if options.smallest:
        return 0
    ratios = {pair: medians[pair[0]]["speed"] / medians[pair[1]]["speed"] for pair in BARS}
    missed = [f"{one} by {peer}" for (one, peer), ratio in ratios.items() if ratio < BARS[one, peer]]
    missed += [f"memory of {case}" for case in ("find", "normalise") if medians[case]["memory"] > MOST_MEMORY]
    print(f"MISSED: {', '.join(missed)}" if missed else "all bars are reached")
    return bool(missed)


if __name__ == "__main__":
    sys.exit(main())
