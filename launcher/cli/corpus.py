"""`launcher corpus`: what a prepared corpus is made of, whether it is whole, what it says, how two of them differ."""

import os
import re
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from launcher.cli.arguments import ClusterOption, JsonOption
from launcher.cli.json_output import print_json
from launcher.cli.verbosity import is_quiet

if TYPE_CHECKING:
    from launcher.corpora.find import PublishedCorpus
    from launcher.corpora.verify import Flaw

app = typer.Typer(no_args_is_help=True, help="Prepared corpora: what is in them, are they whole, how do they differ.")

CorporaArgument = Annotated[
    list[str], typer.Argument(metavar="CORPUS", help="Names below the profile's `roots.corpora`, or folders.")
]
CorpusArgument = Annotated[
    str, typer.Argument(metavar="CORPUS", help="Name below the profile's `roots.corpora`, or a folder.")
]


@app.command()
def show(
    corpora: CorporaArgument,
    cluster: ClusterOption = None,
    sequence_length: Annotated[
        int | None,
        typer.Option(
            "--sequence-length", metavar="L", min=1, help="Also show how many sequences of L tokens it makes."
        ),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Show what corpora are made of: documents, tokens, what was dropped and why, sources, licences, settings."""
    from launcher.cli.views.corpus_view import print_corpus, report_of
    from launcher.corpora.lengths import measure_lengths

    reports = []
    for place, found in enumerate(_open_all(corpora, cluster)):
        lengths, note = measure_lengths(found)
        if as_json:
            reports.append(report_of(found, lengths, sequence_length))
        else:
            typer.echo("\n" * bool(place), nl=False)
            print_corpus(found, lengths, sequence_length)
        if note:
            typer.echo(f"{note}: documents are not measured; `launcher corpus verify` shows what is wrong", err=True)
    if as_json:
        print_json({"corpora": reports})


@app.command()
def verify(
    corpora: CorporaArgument,
    cluster: ClusterOption = None,
    quick: Annotated[bool, typer.Option("--quick", help="Compare sizes only; read no shard.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Compare all files of corpora with their manifests; exit 1 with everything that is wrong.

    Reads every shard: checksums, ends of documents, ids beyond the vocabulary. A credentialed corpus must be mode 0700.
    """
    reports, is_flawed = [], False
    for found in _open_all(corpora, cluster):
        flaws = _find_flaws(found, quick)
        is_flawed |= bool(flaws)
        if as_json:
            reports.append(_flaws_report(found, flaws))
        else:
            _print_flaws(found, flaws, quick)
    if as_json:
        print_json({"corpora": reports})
    raise typer.Exit(1 if is_flawed else 0)


def _find_flaws(found: "PublishedCorpus", quick: bool) -> "list[Flaw]":
    from launcher.corpora.changes import check_changes
    from launcher.corpora.verify import check_contents, check_sizes, sound_shards

    flaws = [*check_sizes(found), *([] if quick else check_changes(found))]
    sound = [] if quick else sound_shards(found, flaws)
    if sound:
        names = [name for shard in sound for name in (shard.name, f"{shard.name}.index")]
        with _bar(sum(found.manifest.sizes()[name] for name in names)) as on_progress:
            flaws += check_contents(found, sound, on_progress)
    return flaws


@app.command()
def sample(
    corpus: CorpusArgument,
    *,
    cluster: ClusterOption = None,
    count: Annotated[int, typer.Option("--count", "-n", metavar="N", min=1, help="How many documents.")] = 3,
    split: Annotated[Literal["train", "validation"], typer.Option(help="Which part of the corpus.")] = "train",
    seed: Annotated[int, typer.Option(help="Another seed draws other documents.")] = 0,
    characters: Annotated[int, typer.Option(metavar="N", min=1, help="Cut longer documents.")] = 600,
    has_credentials: Annotated[
        bool,
        typer.Option("--i-have-credentials", help="Print credentialed text: you may see it, and nobody else can."),
    ] = False,
    with_changes: Annotated[
        bool, typer.Option("--changes", help="Also show each term that `clean.terminology` changed.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Print documents drawn at random, decoded from their tokens as training gets them."""
    from launcher.corpora.changes import read_changes
    from launcher.corpora.sample import draw

    found = _open(corpus, cluster)
    if found.manifest.data_use == "credentialed":
        _refuse_job_logs()
    documents = draw(found, split, count, seed, characters, has_credentials)
    changes = read_changes(found, split, [one.number for one in documents]) if with_changes else {}
    if as_json:
        told = {one: {"changes": list(map(asdict, its))} for one, its in changes.items()}
        rows = [asdict(one) | told.get(one.number, {}) for one in documents]
        print_json({"split": split, "documents": rows})
        return
    if not documents:
        typer.echo(f"{found.folder}: its {split} split holds no documents", err=True)
    for one in documents:
        typer.secho(f"{split} {one.number:,}, {one.tokens:,} tokens", bold=True)
        typer.echo(f"{_printable(one.text)}{'' if one.is_whole else ' ...'}\n")
        for its in changes.get(one.number, []):
            typer.echo(f"  {its.start:>6,}  {its.why:<10}  {_printable(its.old)} -> {_printable(its.new)}")


@app.command()
def diff(
    left: Annotated[str, typer.Argument(metavar="A", help="Name below the profile's `roots.corpora`, or a folder.")],
    right: Annotated[str, typer.Argument(metavar="B", help="Another one.")],
    cluster: ClusterOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show how two corpora differ: sources, settings, tokenizer, counts, shards; exit 0 if they are equal, else 1.

    Names, paths and the version of the code are shown too, but do not count.
    """
    from launcher.cli.views.corpus_view import print_differences
    from launcher.corpora.difference import compare

    corpora = _open(left, cluster), _open(right, cluster)
    differences = compare(corpora[0].manifest, corpora[1].manifest)
    is_different = any(one.matters for one in differences)
    if as_json:
        rows = [asdict(one) | {"matters": one.matters} for one in differences]
        print_json({"different": is_different, "differences": rows})
    else:
        print_differences(*corpora, differences)
    raise typer.Exit(1 if is_different else 0)


def _open(text: str, cluster: str | None) -> "PublishedCorpus":
    from launcher.corpora.find import find_corpus, is_path, open_published
    from launcher.errors import LauncherError
    from launcher.run.home import expand_home

    if not text.strip():
        raise LauncherError(f"`{text}`: is empty; write the name of a corpus, or a folder")
    if is_path(text):
        return open_published(expand_home(text).absolute())
    from launcher.load import load_cluster

    return open_published(find_corpus(load_cluster(cluster), text))


def _open_all(texts: list[str], cluster: str | None) -> "list[PublishedCorpus]":
    """Open corpora before any is read; name all that cannot be opened."""
    from launcher.errors import LauncherError
    from launcher.run.home import NoHomeError

    found, errors = [], []
    for text in texts:
        try:
            found.append(_open(text, cluster))
        except (LauncherError, NoHomeError) as error:
            errors.append(str(error))
    if errors:
        raise LauncherError("\n".join(dict.fromkeys(errors)))
    return found


@contextmanager
def _bar(size: int) -> Iterator[Callable[[int], None]]:
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TimeRemainingColumn, TransferSpeedColumn

    columns = (BarColumn(), DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn())
    # No thread refreshes it: a fork while that holds the terminal's lock would leave workers waiting forever.
    is_seen = sys.stderr.isatty() and not is_quiet()
    with Progress(
        *columns, console=Console(stderr=True), auto_refresh=False, transient=True, disable=not is_seen
    ) as bar:
        task = bar.add_task("", total=size)
        yield lambda read: bar.update(task, completed=read, refresh=True)


def _flaws_report(found: "PublishedCorpus", flaws: "list[Flaw]") -> dict[str, Any]:
    sizes = found.manifest.sizes()
    counts = {"files": len(sizes) + 1, "bytes": sum(sizes.values())}
    return {"folder": str(found.folder), **counts, "flaws": [asdict(one) for one in flaws]}


def _print_flaws(found: "PublishedCorpus", flaws: "list[Flaw]", quick: bool) -> None:
    from launcher.cli.views.wording import file_size

    files, size = len(found.manifest.sizes()) + 1, sum(found.manifest.sizes().values())
    for one in flaws:
        typer.echo(f"{found.folder / one.file}: {one.what}")
    if flaws:
        number = f"{len(flaws)} flaw{'s' * (len(flaws) > 1)}"
        fix = "copy the damaged files again, or remove the folder and prepare it again"
        typer.echo(f"{found.folder}: {number}{f'; {fix}' if any(one.file for one in flaws) else ''}")
    else:
        unread = "; contents were not read (`--quick`)" if quick else ""
        typer.echo(f"{found.folder}: {files} files, {file_size(size)}, as the manifest says{unread}")


def _refuse_job_logs() -> None:
    from launcher.errors import LauncherError

    if "SLURM_JOB_ID" in os.environ and not sys.stdout.isatty():
        raise LauncherError("corpus sample: credentialed text would end in a job's log; run it in a terminal")


def _printable(text: str) -> str:
    return re.sub(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]", "\N{REPLACEMENT CHARACTER}", text)
