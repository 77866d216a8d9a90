"""JSON records of real files and of made-up ones, good and bad, each with its line."""

import gzip
import json

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jobs.data.chat import records as reading
from jobs.data.chat.records import read_records
from jobs.data.readers.source_stream import SourceStream
from tests.support.shared_data import shared_data

texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
values = st.recursive(
    st.none() | st.integers(-9, 9) | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=6,
)
records = st.lists(st.dictionaries(texts, values, max_size=4), max_size=6)


def read(path):
    stream = SourceStream(path)
    return list(read_records(stream)), stream


def write(path, content):
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


@pytest.mark.parametrize(
    "name",
    [
        "sft/medquad_alpaca.2000.json.gz",
        "sft/medicalgpt/medical_sft_sharegpt.600.jsonl",
        "qa/medmcqa/dev.2000.jsonl",
        "qa/pubmedqa/ori_pqal.json",
    ],
)
def test_real_files_give_what_json_gives(name):
    path = shared_data(name)
    content = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    if ".jsonl" in name:
        expected = [(None, json.loads(line)) for line in content.splitlines()]
    else:
        whole = json.loads(content)
        expected = list(whole.items()) if isinstance(whole, dict) else [(None, record) for record in whole]

    found, stream = read(path)

    assert [(key, record) for _, key, record in found] == expected
    assert (stream.count, stream.bad) == (len(expected), 0)
    lines = content.split(b"\n")
    assert all(b"{" in lines[line - 1] for line, _, _ in found)


@settings(max_examples=150)
@given(wanted=records, indent=st.sampled_from([None, 0, 2]), chunk=st.integers(1, 40), keyed=st.booleans())
def test_lists_and_objects_are_cut_wherever_chunks_end(tmp_path_factory, wanted, indent, chunk, keyed):
    whole = {f'k"{number}': record for number, record in enumerate(wanted)} if keyed else wanted
    path = write(tmp_path_factory.mktemp("r") / "a.json", json.dumps(whole, indent=indent, ensure_ascii=False) + "\n")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(reading, "_CHUNK", chunk)
        patch.setattr(reading, "_begins_with_record", lambda _: False)
        found, stream = read(path)

    assert [record for _, _, record in found] == wanted
    assert (stream.count, stream.bad, stream.first_bad) == (len(wanted), 0, [])


@settings(max_examples=80)
@given(wanted=records, chunk=st.integers(1, 30))
def test_lines_are_counted_to_where_records_begin(tmp_path_factory, wanted, chunk):
    lines = ["[", *(json.dumps(record) + "," for record in wanted), '{"last": 1}', "]"]
    path = write(tmp_path_factory.mktemp("r") / "a.json", "\n".join(lines))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(reading, "_CHUNK", chunk)
        found, _ = read(path)

    assert [line for line, _, _ in found] == list(range(2, len(wanted) + 3))


def test_a_json_file_may_hold_lines(tmp_path):
    path = write(tmp_path / "a.json", '\ufeff{"a": "x"}\n\n{"a": "y"}\n')

    assert [(line, record) for line, _, record in read(path)[0]] == [(1, {"a": "x"}), (3, {"a": "y"})]


def test_bad_records_are_named_by_their_line_and_not_quoted(tmp_path):
    lines = [b'{"a": 1}', b'{"a": secret}', b"[1]", b'{"a": "\xff secret"}', b'{"a": "\0"}', b'{"a": 2}']
    path = write(tmp_path / "a.jsonl", b"\n".join(lines))

    found, stream = read(path)

    assert [record["a"] for _, _, record in found] == [1, 2]
    assert (stream.count, stream.bad) == (6, 4)
    assert [line.removeprefix(f"{path}:") for line in stream.first_bad] == [
        "2: is not JSON: unexpected character, expected a JSON value at character 6",
        "3: is not a JSON object",
        "4: byte 0xff is not UTF-8; save the file as UTF-8",
        "5: holds NUL bytes, as after a failed copy",
    ]


def test_bad_elements_of_a_list_are_named_by_their_line(tmp_path):
    path = write(tmp_path / "a.json", '[\n{"a": 1},\nnull,\n{"a": 2},\n{"a": secret},\n[3],\n{"a": 4}\n]')

    found, stream = read(path)

    assert [record["a"] for _, _, record in found] == [1, 4]
    assert [line.removeprefix(f"{path}:") for line in stream.first_bad] == [
        "4: comes after something that is not a record",
        "5: is not JSON: unexpected character, expected a JSON value at character 6",
        "6: is not a JSON object",
    ]


@pytest.mark.parametrize(
    "content", ['[{"a": 1}, {"b": 2}', '[{"a": 1}, {"b": "}]', "", "17", '{"a": {}} {"b": {}}', '{"a"']
)
def test_a_file_that_is_no_whole_value_is_damaged(tmp_path, content):
    stream = read(write(tmp_path / "a.json", content))[1]

    assert stream.bad == stream.count >= 1
    assert ": it is not one whole list or object of records" in stream.first_bad[0]


def test_a_truncated_archive_is_damaged(tmp_path):
    whole = gzip.compress(orjson.dumps([{"a": str(number)} for number in range(5000)]))
    _, stream = read(write(tmp_path / "a.json.gz", whole[: len(whole) // 2]))

    assert stream.bad == stream.count > 1000
    assert "the file is corrupt" in stream.first_bad[0]


def test_a_record_without_end_takes_no_more_memory_than_a_record_may(tmp_path, monkeypatch):
    monkeypatch.setattr(reading, "MAX_RECORD_BYTES", 10_000)
    monkeypatch.setattr(reading, "_CHUNK", 1000)
    path = write(tmp_path / "a.json", '[{"a": 1},\n{"b": "' + "x" * 50_000)

    found, stream = read(path)

    assert [record for _, _, record in found] == [{"a": 1}]
    assert "the file is corrupt: a record is longer than 0 MiB, or never closed" in stream.first_bad[0]
