"""Read sources of terms: ontologies in OBO format, tables of MeSH, lists of abbreviations; the UMLS in its own module.

Each reader takes the files of one source in order and gives concepts. Lines that cannot be read are counted by their
`SourceStream`, and terms that the recipe does not want by their reason.
"""

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence

import orjson

from jobs.data.readers.source_stream import SourceStream, text_of
from jobs.data.readers.text_file import decoded, read_content
from jobs.data.terminology.concept import Concept
from launcher.errors import LauncherError
from launcher.recipe.sections.terminology import MeshTerms, OboTerms

_SYNONYM = re.compile(r'"((?:[^"\\]|\\.)*)" (EXACT|NARROW|BROAD|RELATED)\b')
_ESCAPED = re.compile(r"\\(.)")
_TAG = re.compile(r"([A-Za-z_-]+): (.*)")


def decoded_lines(stream: SourceStream) -> Iterator[tuple[int, str]]:
    """Give each line that is not blank, with its number; a line that is not text is a record error."""
    for number, raw in stream.lines():
        for line in stream.parsed(number, lambda raw=raw: text_of(raw)):  # type: ignore[misc]
            yield number, line.rstrip("\r\n")


def read_obo(streams: Iterable[SourceStream], source: OboTerms, left_out: Counter[str]) -> Iterator[Concept]:
    """Read ontologies; obsolete terms are left out.

    Format: https://owlcollab.github.io/oboformat/doc/GO.format.obo-1_4.html.
    """
    for stream in streams:
        for line, stanza in _stanzas(stream):
            names, ids = stanza["name"], stanza["id"]
            if stanza["is_obsolete"] == ["true"]:
                left_out["obsolete"] += 1
            elif len(names) != 1 or len(ids) != 1:
                stream.record_error(line, "a [Term] without exactly one `id` and one `name`")
            else:
                synonyms = list(_obo_synonyms(stream, line, stanza["synonym"], source, left_out))
                yield Concept(ids[0], _unescaped(names[0]), source.type, synonyms)


def _stanzas(stream: SourceStream) -> Iterator[tuple[int, defaultdict[str, list[str]]]]:
    """Give the tags of each [Term] stanza, and the line that it begins in."""
    stanza: defaultdict[str, list[str]] | None = None
    begin = 0
    for number, line in decoded_lines(stream):
        if line.startswith("["):
            if stanza is not None:
                yield begin, stanza
            begin, stanza = number, defaultdict(list) if line.startswith("[Term]") else None
        elif found := _TAG.match(line):
            if stanza is not None:
                stanza[found[1]].append(found[2].partition(" ! ")[0] if found[1] != "synonym" else found[2])
        elif not line.startswith("!"):
            stream.record_error(number, "is neither `tag: value` nor a stanza's head")
    if stanza is not None:
        yield begin, stanza


def _obo_synonyms(
    stream: SourceStream, line: int, values: Iterable[str], source: OboTerms, left_out: Counter[str]
) -> Iterator[str]:
    for value in values:
        found = _SYNONYM.match(value)
        if found is None:
            stream.record_error(line, 'a `synonym` that is not `"text" SCOPE ...`')
        elif found[2] in source.scopes:
            yield _unescaped(found[1])
        else:
            left_out[f"scope_{found[2].lower()}"] += 1


def _unescaped(text: str) -> str:
    return _ESCAPED.sub(r"\1", text)


def read_mesh(
    streams: Iterable[SourceStream], source: MeshTerms, left_out: Counter[str], trees: Iterable[SourceStream]
) -> Iterator[Concept]:
    """Read tables of MeSH descriptors."""
    wanted = _descriptors_below(source.trees, trees)
    for stream in streams:
        for number, (mesh_id, name) in table_rows(stream, ("mesh_id", "mesh_name")):
            if not (mesh_id and name):
                stream.record_error(number, "lacks an id or a name")
            elif wanted is not None and mesh_id not in wanted:
                left_out["other_tree"] += 1
            else:
                natural = natural_order(name)
                yield Concept(mesh_id, natural, source.type, [name] if natural != name else [])


def natural_order(name: str) -> str:
    """Turn an inverted name around: `Abnormalities, Drug-Induced`. Names with several commas may be lists, and stay."""
    head, comma, tail = name.partition(", ")
    return f"{tail} {head}" if comma and "," not in tail and not re.search(r"\b(?:and|or)\b", tail) else name


def _descriptors_below(trees: Sequence[str], tables: Iterable[SourceStream]) -> set[str] | None:
    """Return the ids below places of the trees; None if all are wanted. `values` of the tables count each place."""
    if not trees:
        return None
    wanted = set[str]()
    for table in tables:
        table.expect(trees)
        for _, (mesh_id, place) in table_rows(table, ("mesh_id", "mesh_tree_number")):
            above = [
                tree for tree in trees if place == tree or place.startswith(tree if len(tree) == 1 else f"{tree}.")
            ]
            table.count_values([*above, place[:1]])
            if above:
                wanted.add(mesh_id)
    return wanted


def table_rows(stream: SourceStream, columns: Sequence[str]) -> Iterator[tuple[int, list[str]]]:
    """Give columns of a table that is separated by tabs and has a row of names, each with the number of its line."""
    lines = decoded_lines(stream)
    _, header = next(lines, (0, None))
    if header is None:  # the file is empty, or was counted as bad
        return
    names = header.split("\t")
    if missing := [name for name in columns if name not in names]:
        for _ in lines:
            pass  # counts them
        stream.schema_mismatch(f"no column {', '.join(missing)}")
        return
    places = [names.index(name) for name in columns]
    for number, line in lines:
        cells = line.split("\t")
        if len(cells) != len(names):
            stream.record_error(number, f"has {len(cells)} cells, the first row {len(names)}")
        else:
            yield number, [cells[place].strip() for place in places]


def read_abbreviations(streams: Iterable[SourceStream]) -> Iterator[tuple[str, str]]:
    """Give each meaning of each abbreviation.

    Raises:
        LauncherError: a file cannot be read as a whole, so that none of its abbreviations can.
    """
    for stream in streams:
        for number, (short, meanings) in enumerate(_abbreviations(stream).items(), 1):
            stream.count += 1
            if not isinstance(meanings, list) or not all(isinstance(one, str) for one in meanings):
                stream.record_error(number, "is not a list of meanings")
                continue
            yield from ((short, meaning) for meaning in meanings if meaning.strip())


def _abbreviations(stream: SourceStream) -> dict[str, object]:
    text = decoded(stream.path, read_content(stream))
    try:
        pairs = orjson.loads(text)
    except orjson.JSONDecodeError as error:
        where = f"{stream.path}:{error.lineno}"
        raise LauncherError(f"{where}: is not JSON: {error.msg}; correct the file, or fetch it again") from None
    if not isinstance(pairs, dict):
        raise LauncherError(f"{stream.path}: is not a JSON object of abbreviations; correct `files`")
    return pairs
