"""Credentialed text stays where it is: none in logs, errors, metrics, W&B's files, manifests or run directories."""

import gzip
import json
import re
import stat
import subprocess
import sys
import traceback
from collections.abc import Iterator
from pathlib import Path

import pytest

from jobs.data.sampling.corpus_reader import open_corpus
from jobs.kinds.prepare import main
from jobs.rank.redact_errors import RedactedError, redacting
from jobs.rank.worker_pool import run_tasks
from launcher.artifacts.corpus_manifest import TOKENIZER
from launcher.errors import LauncherError
from launcher.run.paths import FINISHED, NEVER_RESTART
from tests.support.prepare_runs import Group, abstracts, make_context, write_source
from tests.support.stops import stopped_after
from tests.support.training_runs import make_run, start, train

PLANTED = "Zaphodia"
SENTENCE = (
    f"Mrs. {PLANTED} Beeblebrox was seen on 01/02/2015 and can be called at 617-632-7000 or {PLANTED}@example.org"
)
CLEAN = {
    "normalise": "nfkc",
    "languages": ["en"],
    "decontaminate": {"files": ["./sets/*"]},
    "phi_check": True,
    "exact_duplicates": "drop",
    "near_duplicates": {},
}


def write_notes(folder: Path) -> None:
    """Notes with the planted name in what stays, in what each step drops, and in what cannot be read."""
    notes = [f"{SENTENCE}. {text}" for text in abstracts()[:60]]
    dropped = [
        PLANTED,
        f"{PLANTED}: Die Behandlung der chronischen Niereninsuffizienz bei älteren Patienten mit Diabetes mellitus.",
        f"The patient {PLANTED} came to the hospital with pain in the chest and was sent home after two days.",
        notes[0],
        f"{notes[1]} Signed.",
    ]
    records = [json.dumps({"text": text, "meta": {"pile_set_name": PLANTED}}) for text in (*notes, *dropped)]
    broken = ['{"text": "' + PLANTED, json.dumps([PLANTED]), json.dumps({PLANTED: 1}), json.dumps({"text": [PLANTED]})]
    write_source(folder / "notes.jsonl", "\n".join([*records, *broken]).encode() + b'\n{"text": "Zaphodia \xff"}\n')
    (folder / "sets").mkdir()
    (folder / "sets" / "set.json").write_text(json.dumps({"Q": dropped[2]}))


def tells(folder: Path) -> Iterator[Path]:
    """Files that hold the planted name."""
    sources = {folder / "notes.jsonl", folder / "sets" / "set.json"}
    for path in sorted(set(folder.rglob("*")) - sources - set(folder.glob("source-*"))):
        if path.is_file() and any(form in path.read_bytes() for form in (PLANTED.encode(), PLANTED.lower().encode())):
            yield path


def others_may_enter(folder: Path) -> bool:
    return bool(stat.S_IMODE(folder.stat().st_mode) & 0o077)


@pytest.fixture
def notes(tmp_path: Path) -> Path:
    write_notes(tmp_path)
    return tmp_path


def prepare(folder: Path, **changes: object) -> None:
    changes = {"data_use": "credentialed", "clean": CLEAN | {"min_characters": 20}, "max_bad_fraction": 0.5} | changes
    main(make_context(folder, **changes))


def test_no_step_of_a_prepare_tells_of_the_text(notes: Path, capfd: pytest.CaptureFixture[str]) -> None:
    prepare(notes)

    said = "".join(capfd.readouterr())
    manifest = open_corpus(notes / "corpora" / "corpus").manifest
    reasons = ("too_short", "other_language_by_text", "contaminated", "duplicate", "near_duplicate")
    assert manifest.counts.dropped == dict.fromkeys(reasons, 1)
    assert manifest.counts.bad_records == 5
    assert manifest.counts.phi["email"] == manifest.counts.phi["phone"] == manifest.counts.phi["titled_name"] == 62
    assert "62 matches of titled_name" in said
    assert "notes.jsonl:66: is not JSON" in said
    assert "set.json: 1 documents dropped for words of 1 of its 1 records" in said
    assert PLANTED.lower() not in said.lower()
    assert not list(tells(notes))


def test_no_error_tells_of_the_text(notes: Path) -> None:
    with pytest.raises(LauncherError) as too_many:
        prepare(notes, max_bad_fraction=0.001)
    (notes / "sets" / "set.jsonl").write_text('{"Q": ' + PLANTED)
    with pytest.raises(LauncherError) as bad_set:
        prepare(notes)
    (notes / "sets" / "set.jsonl").unlink()

    assert "5 of 70 records cannot be read" in str(too_many.value)
    assert "set.jsonl:1: is not JSON" in str(bad_set.value)
    assert PLANTED not in str(too_many.value) + str(bad_set.value)
    assert not list(tells(notes))


def test_nobody_else_may_enter_what_is_half_done_or_done(notes: Path) -> None:
    (notes / "more.jsonl").write_text(json.dumps({"text": abstracts()[99]}))

    changes = {"data_use": "credentialed", "max_bad_fraction": 0.5, "resources": {"cpus_per_task": 1, "time": "1h"}}
    with stopped_after(2):
        main(make_context(notes, **changes))
    assert others_may_enter(notes / "corpora" / "corpus.partial") is False
    main(make_context(notes, **changes))
    assert others_may_enter(notes / "corpora" / "corpus") is False


def citation(abstract: str) -> str:
    article = f"<ArticleTitle>{PLANTED}</ArticleTitle><Abstract><AbstractText>{abstract}</AbstractText></Abstract>"
    fields = f'<PMID Version="1">7</PMID><Article>{article}<Language>eng</Language></Article>'
    return f"<PubmedArticle><MedlineCitation>{fields}</MedlineCitation></PubmedArticle>"


def article(text: str) -> str:
    title = f"<title-group><article-title>{PLANTED}</article-title></title-group>"
    front = f"<front><article-meta>{title}</article-meta></front>"
    return f"<article>{front}<body><sec><title>{PLANTED}</title><p>{text}</p></sec></body></article>"


BROKEN, HEAD = f"{PLANTED} &{PLANTED}; <b>", "subject_id,note_seq,text\n"
FORMATS = {
    "medline": f"<PubmedArticleSet>{citation(SENTENCE)}{citation(BROKEN)}<{PLANTED}/></PubmedArticleSet>",
    "pmc": f"<pmc-articleset>{article(SENTENCE)}{article(BROKEN)}<{PLANTED}/></pmc-articleset>",
    "mimic_iv": f'{HEAD}1,1,"{SENTENCE}"\n{PLANTED},{PLANTED},{PLANTED},{PLANTED}\n2,2,"{PLANTED}"{PLANTED}\n',
    "text": f"{SENTENCE}\n{PLANTED}\0\n",
}


@pytest.mark.parametrize("format", FORMATS)
def test_no_reader_tells_of_the_text_in_any_task(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], format: str
) -> None:
    for number, end in enumerate(("", f"<{PLANTED}", f'3,3,"{PLANTED}')):
        (tmp_path / f"source-{number}").write_bytes(FORMATS[format].encode() + end.encode())
    packed = gzip.compress(FORMATS[format].encode())
    (tmp_path / "source-3.gz").write_bytes(packed[:-12])
    sources = [{"format": format, "files": "./source-*", "license": "none"}]
    group = Group(tmp_path, 2, sources=sources, data_use="credentialed", max_bad_fraction=1, validation=0)

    for context in (group.share(0), group.share(1)):
        main(context)
        assert not others_may_enter(group.work)
    main(group.last)

    said = "".join(capfd.readouterr())
    counts = open_corpus(group.corpus).manifest.counts
    assert counts.documents["train"] > 0
    assert counts.bad_records > 0
    assert re.search(r"source-\d\S*:\d+: ", said)
    assert PLANTED.lower() not in said.lower()
    assert not list(tells(tmp_path))


FAILING = """
import runpy
from jobs.data.corpus import shard_writer as shards
from pydantic import TypeAdapter

def fail(self, document):
    {failure}

shards.TokenizedShards._split = fail
runpy.run_module("jobs", run_name="__main__", alter_sys=True)
"""
FAILURES = {
    "raise RuntimeError(document.text)": (1, "RuntimeError (message withheld"),
    "raise KeyError(document.text) from ValueError(document.text)": (1, "KeyError (message withheld"),
    "raise OSError(document.text)": (1, "OSError (message withheld"),
    "TypeAdapter(int).validate_python(document.text)": (NEVER_RESTART, "int: is invalid (int_parsing)"),
}


@pytest.mark.slow
@pytest.mark.parametrize(("failure", "expected"), FAILURES.items())
def test_an_error_that_nobody_foresaw_is_told_without_its_message(
    notes: Path, failure: str, expected: tuple[int, str]
) -> None:
    context = make_context(notes, data_use="credentialed", max_bad_fraction=0.5)

    attempt = start(context.run, program=("-c", FAILING.format(failure=failure)))
    attempt.wait()

    code, told = expected
    assert attempt.exit_codes == [code]
    assert told in attempt.log()
    assert not list(tells(notes))


@pytest.mark.slow
def test_an_error_that_nobody_foresaw_is_told_in_full_where_text_is_open(notes: Path) -> None:
    context = make_context(notes, max_bad_fraction=0.5)

    attempt = start(context.run, program=("-c", FAILING.format(failure="raise RuntimeError(document.text)")))
    attempt.wait()

    assert f"RuntimeError: {SENTENCE}" in attempt.log()


def test_a_redacted_error_says_where_it_happened(notes: Path) -> None:
    recipe = make_context(notes, data_use="credentialed").recipe

    def fail(number: int) -> None:
        raise RuntimeError(f'{PLANTED}\n  File "{PLANTED}.py", line 1, in {PLANTED}')

    with pytest.raises(RedactedError) as caught, redacting(recipe):
        list(run_tasks(fail, [1], 1))

    assert f"{Path(__file__).name}:" in str(caught.value)
    assert " in fail" in str(caught.value)
    assert PLANTED not in "".join(traceback.format_exception(caught.value))


@pytest.mark.slow
def test_a_training_on_credentialed_text_tells_nothing_of_it(notes: Path) -> None:
    context = make_context(
        notes, data_use="credentialed", clean=CLEAN | {"min_characters": 20}, max_bad_fraction=0.5, validation=0.2
    )
    task = subprocess.run([sys.executable, "-m", "jobs", context.run.root], capture_output=True, check=False)
    changes = {
        "data": {"corpora": [{"name": "corpus"}]},
        "tracking": {"mode": "offline"},
        "schedule": {"length": "4 steps", "warmup": "1 steps"},
        "checkpoint": {"interval": "2 steps"},
    }

    run = make_run(notes, data_use="credentialed", **changes)
    attempt = train(run)
    refused = train(make_run(notes, data_use="open", **changes))

    assert task.returncode == FINISHED
    assert attempt.exit_codes == [FINISHED], attempt.log()
    assert list(run.root.rglob("*.wandb"))
    assert refused.exit_codes == [NEVER_RESTART]
    assert "holds credentialed data" in refused.log()
    assert PLANTED.encode() not in task.stdout + task.stderr
    assert not list(tells(notes))
    assert (notes / "corpora" / "corpus" / TOKENIZER).exists()
