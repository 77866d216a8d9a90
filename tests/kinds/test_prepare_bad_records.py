"""kind: prepare, with records and files that cannot be read."""

import json
import stat
import subprocess
import sys

import pytest

from launcher.artifacts.corpus_manifest import MANIFEST, read_manifest
from launcher.errors import LauncherError
from launcher.run.paths import NEVER_RESTART
from tests.support.prepare_runs import (
    abstracts,
    make_context,
    prepare,
    write_pile,
    write_source,
)

pytestmark = pytest.mark.slow


PLANTED = "Zaphodia"


BAD_LINES = {
    b'{"text": "cut': "is not JSON",
    b'{"text": "\xff\xfe"}': "byte 0xff is not UTF-8",
    b'{"text": "\\ud800"}': "is not JSON",
    b'["text"]': "is not a JSON object",
    b"17": "is not a JSON object",
    b'{"txt": "misspelt"}': "has no `text`",
    b'{"text": 5}': "its `text` is not a string",
    b'{"text": null}': "its `text` is not a string",
    b"\0\0": "holds NUL bytes, as after a failed copy",
    b"[" * 100_000: "is not JSON",
}


@pytest.mark.parametrize(("line", "complaint"), BAD_LINES.items())
def test_a_bad_line_is_counted_and_named(tmp_path, capsys, line, complaint):
    good = b"".join(json.dumps({"text": text}).encode() + b"\n" for text in abstracts()[:20])
    path = write_source(tmp_path / "a.jsonl.gz", good + b"\n" + line + b"\n" + good)

    counts = prepare(tmp_path, max_bad_fraction=0.1).manifest.counts

    assert (counts.records, counts.bad_records, sum(counts.documents.values())) == (41, 1, 40)
    assert f"{path}:22: {complaint}" in capsys.readouterr().out


def test_bad_records_are_counted_by_reason_with_five_examples_of_each(tmp_path, capsys):
    good = [json.dumps({"text": text}).encode() for text in abstracts()[:40]]
    bad = [b'{"txt": 1}', b'{"text": "cut', b"[1]"]
    paths = [tmp_path / "a.jsonl", tmp_path / "b.jsonl"]
    write_source(paths[0], b"\n".join([*good, *[bad[0]] * 9, bad[1], bad[0]]))
    write_source(paths[1], b"\n".join([*good, *[bad[2]] * 2, bad[0]]))

    manifest = prepare(tmp_path, max_bad_fraction=0.5, clean={"exact_duplicates": "keep"}).manifest

    reasons = {"has no `text`": 11, "is not JSON: unexpected control character in string at character N": 1}
    assert manifest.counts.bad_reasons == {**reasons, "is not a JSON object": 2}
    assert manifest.counts.bad_records == 14
    assert list(manifest.bad_examples) == [
        *(f"{paths[0]}:{number}: has no `text`" for number in range(41, 46)),
        f"{paths[0]}:50: is not JSON: unexpected control character in string at character 13",
        *(f"{paths[1]}:{number}: is not a JSON object" for number in (41, 42)),
    ]
    assert f"{paths[0]}:50: is not JSON" in capsys.readouterr().out


def test_a_manifest_without_reasons_is_read(tmp_path):
    write_pile(tmp_path / "a.jsonl", abstracts()[:20])
    path = prepare(tmp_path).folder / "manifest.json"
    content = json.loads(path.read_text())
    del content["bad_examples"], content["counts"]["bad_reasons"]
    path.write_text(json.dumps(content))

    assert read_manifest(path.parent).counts.bad_reasons == {}


def test_too_many_bad_lines_fail_the_run_and_forgiving_them_costs_no_second_reading(tmp_path, capsys):
    content = b"".join(json.dumps({"text": text}).encode() + b"\n" for text in abstracts()[:20])
    path = write_source(tmp_path / "a.jsonl", content + b'{"text": broken\n{"txt": 1}\n')
    other = write_pile(tmp_path / "b.jsonl", ["more " * 1000] * 10)  # larger, so that it is read first
    one_worker = {"cpus_per_task": 1, "time": "1h"}

    with pytest.raises(LauncherError) as caught:
        prepare(tmp_path, resources=one_worker)
    message = str(caught.value)
    first = message.splitlines()[0]  # all that `launcher status` shows
    assert "2 of 32 records cannot be read, more than `max_bad_fraction: 0.001` allows. " in first
    assert f"The first one: {path}:21: is not JSON" in first
    assert first.endswith("; correct the files or raise the limit, and submit again; finished files are kept")
    assert f"{path}:22: has no `text`" in message
    assert "\n  in all 1: has no `text`" in message
    assert str(other) not in message
    assert not (tmp_path / "corpora" / "corpus").exists()

    capsys.readouterr()
    prepare(tmp_path, max_bad_fraction=0.1)
    assert "2 source files, 2 of them done before" in capsys.readouterr().out


@pytest.mark.parametrize("suffix", ["gz", "zst"])
def test_a_truncated_file_is_not_trusted_but_gives_what_is_there_if_forgiven(tmp_path, suffix):
    path = write_pile(tmp_path / f"a.jsonl.{suffix}", abstracts())
    path.write_bytes(path.read_bytes()[:-1000])

    with pytest.raises(LauncherError, match=rf"cannot be read, more than .* one: {path}:\d+: the file is corrupt: \w+"):
        prepare(tmp_path, max_bad_fraction=0.5)
    counts = prepare(tmp_path, max_bad_fraction=1).manifest.counts

    kept = sum(counts.documents.values())
    assert 300 < kept < 500
    assert kept <= counts.records < 1.05 * kept
    assert counts.bad_records == counts.records


def test_lines_behind_damage_count_by_the_rate_so_far(tmp_path):
    path = write_pile(tmp_path / "a.jsonl.zst", abstracts())
    path.write_bytes(path.read_bytes() + b"\xff" * path.stat().st_size)

    counts = prepare(tmp_path, max_bad_fraction=1).manifest.counts

    assert sum(counts.documents.values()) == 500
    assert 800 < counts.records < 1_050
    assert counts.bad_records == counts.records


def test_a_wrong_checksum_spoils_the_file(tmp_path):
    path = write_pile(tmp_path / "a.jsonl.gz", abstracts()[:20])
    content = bytearray(path.read_bytes())
    content[-8] ^= 1  # CRC-32, little-endian, then the size: https://www.rfc-editor.org/rfc/rfc1952
    path.write_bytes(content)

    with pytest.raises(
        LauncherError, match=r"20 of 20 records cannot be read.* one: .*a\.jsonl\.gz:21: .* CRC check failed"
    ):
        prepare(tmp_path)


def test_nothing_of_credentialed_text_is_told_and_nobody_else_may_look(tmp_path, capfd):
    text = f"Patient {PLANTED} was discharged."
    content = json.dumps({"text": text}) + "\n" + '{"text": "' + PLANTED + "\n" + json.dumps([PLANTED]) + "\n"
    write_source(tmp_path / "a.jsonl", content.encode())

    with pytest.raises(LauncherError) as caught:
        prepare(tmp_path, data_use="credentialed", validation=0)
    corpus = prepare(tmp_path, data_use="credentialed", validation=0, max_bad_fraction=0.9)

    said = "".join(capfd.readouterr()) + str(caught.value) + (corpus.folder / MANIFEST).read_text()
    assert "a.jsonl:2: is not JSON" in said
    assert PLANTED not in said
    assert stat.S_IMODE(corpus.folder.stat().st_mode) == 0o700
    assert corpus.manifest.data_use == "credentialed"


@pytest.mark.slow
def test_bad_data_ends_the_task_with_the_code_that_forbids_a_restart(tmp_path):
    path = write_source(tmp_path / "a.jsonl", b'{"text": "fine"}\nnot fine\n')
    context = make_context(tmp_path)

    task = subprocess.run([sys.executable, "-m", "jobs", context.run.root], capture_output=True, text=True, check=False)

    assert task.returncode == NEVER_RESTART
    assert f"{path}:2: is not JSON" in task.stderr
    assert "Traceback" not in task.stderr
