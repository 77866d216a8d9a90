"""Reading the rows of CSV files, whatever is in them."""

import csv
import gzip
import io
import tracemalloc
import zlib

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from jobs.data.readers import csv_rows as rows
from jobs.data.readers.csv_rows import read_rows
from jobs.data.readers.source_stream import SourceStream
from tests.support.prepare_runs import write_source

many = settings(max_examples=200)
COLUMNS = ["id", "note", "text"]
HEADER = b"id,note,text\n"


def read(path, columns=COLUMNS, numbers=("id",)):
    source = SourceStream(path)
    return source, list(read_rows(source, columns, numbers))


def read_bytes(folder, content, name="a.csv"):
    return read(write_source(folder / name, content))


def lines_of(source):
    return [int(bad.rsplit(":", 2)[1]) for bad in source.first_bad]


@pytest.mark.parametrize("suffix", ["csv", "csv.gz", "csv.zst"])
def test_rows_come_with_the_line_they_begin_in(tmp_path, suffix):
    content = b'id,note,text\r\n1,a,"two\r\nlines ""quoted"", with a comma"\r\n\r\n2,,""\n3,5" tall,last'

    source, got = read_bytes(tmp_path, content, f"a.{suffix}")

    assert got == [
        (2, ("1", "a", 'two\r\nlines "quoted", with a comma')),
        (5, ("2", "", "")),
        (6, ("3", '5" tall', "last")),
    ]
    assert (source.count, source.bad, source.share_read) == (3, 0, 1.0)


def test_columns_are_found_in_any_case_and_order_behind_a_byte_order_mark(tmp_path):
    source, got = read_bytes(tmp_path, b'\xef\xbb\xbf"TEXT", Id ,more,NOTE\nwords,7,x,y\n')

    assert got == [(2, ("7", "y", "words"))]
    assert source.bad == 0


@pytest.mark.parametrize(
    ("content", "what", "count"),
    [
        (b"", "its first row names no column `id`", 1),
        (b'id,note\n1,"a\nb"\n2,c\n', "its first row names no column `text`", 2),
        (b"id,note,text,Text\n1,a,b,c\n", "its first row names several columns `text`", 1),
        (b"id;note;text\n1;2;3\n4;5;6\n", "its first row names no column `id`", 2),
        (b'"id,note\nmore\n', "its first row names no column `id`", 2),
    ],
)
def test_a_file_without_the_columns_is_damaged_and_all_its_rows_are_bad(tmp_path, content, what, count):
    source, got = read_bytes(tmp_path, content)

    assert got == []
    assert source.first_bad[0].startswith(f"{tmp_path}/a.csv:1: schema mismatch: ")
    assert source.first_bad[0].endswith(f": {what}")
    assert (source.count, source.bad) == (count, count)
    assert source.sha256


@pytest.mark.parametrize(
    ("row", "what"),
    [
        (b"5,only two", "has 2 columns instead of 3"),
        (b'5,"many\nlines",a,b,c', "has 5 columns instead of 3"),
        (b"x5,a,b", "its `id` is not a whole number"),
        (b",a,b", "its `id` is not a whole number"),
        (b'5,"a"b,c', "has a cell that is not valid CSV"),
        (b"5,a\rb,c", "has a cell that is not valid CSV"),
        (b'5,a,"caf\xe9\nau lait"', "byte 0xe9 is not UTF-8; save the file as UTF-8"),
        (b'5,a,"a\0b"', "holds NUL bytes, as after a failed copy"),
        (b'5,a,"never\nclosed', "has a cell that is not valid CSV"),
    ],
)
def test_a_bad_row_costs_only_itself(tmp_path, row, what):
    content = HEADER + b'1,a,"b\nc"\n' + row + b'\n2,d,"e\nf"\n3,g,h\n'

    source, got = read_bytes(tmp_path, content)

    after = 4 + row.count(b"\n") + 1
    assert got == [(2, ("1", "a", "b\nc")), (after, ("2", "d", "e\nf")), (after + 2, ("3", "g", "h"))]
    assert (source.count, source.bad) == (4, 1)
    assert source.first_bad == [f"{tmp_path}/a.csv:4: {what}"]


def test_every_bad_row_counts_even_if_none_looks_like_a_row(tmp_path):
    source, got = read_bytes(tmp_path, HEADER + b',a,"b\nc"\n' * 50 + b"1,a,b\n" + b"x\n" * 50)

    assert got == [(102, ("1", "a", "b"))]
    assert (source.count, source.bad) == (101, 100)


def test_a_quote_that_is_never_closed_costs_only_its_row(tmp_path):
    content = HEADER + b'1,a,"never\nclosed\n' + b"".join(b"%d,b,c\n" % number for number in range(2, 1000))

    source, got = read_bytes(tmp_path, content)

    assert [row[0] for _, row in got] == [str(number) for number in range(2, 1000)]
    assert got[0][0] == 4
    assert source.first_bad == [f"{tmp_path}/a.csv:2: has a quote that is never closed"]


def test_rows_that_are_too_long_are_skipped_without_being_held(tmp_path, monkeypatch):
    monkeypatch.setattr(rows, "MAX_RECORD_BYTES", 100_000)
    long = [
        b'2,a,"' + b"x" * 30_000_000 + b'"\n',
        b'4,a,"' + b"x y, z\n" * 3_000_000 + b'"\n',
        b"6," + b"y" * 3_000_000 + b",b\n",
        b'8,a,"' + b"never closed " * 3_000_000 + b"\n",
        b"," * 10_000_000 + b"\n",
    ]
    content = HEADER + b"".join(b"%d,a,b\n" % (2 * number + 1) + row for number, row in enumerate(long)) + b"11,a,b\n"
    path = write_source(tmp_path / "a.csv.zst", content)
    del content, long
    tracemalloc.start()

    source, got = read(path)

    assert tracemalloc.get_traced_memory()[1] < 10_000_000
    tracemalloc.stop()
    assert [row[0] for _, row in got] == ["1", "3", "5", "7", "9", "11"]
    assert (source.count, source.bad) == (11, 5)
    assert lines_of(source) == [3, 5, 3_000_007, 3_000_009, 3_000_011]


def test_reading_a_row_of_the_greatest_length_takes_bounded_memory(tmp_path):
    length = rows.MAX_RECORD_BYTES - 8
    path = write_source(tmp_path / "a.csv.zst", HEADER + b'1,a,"' + b"x" * length + b'"\n2,b,"' + b"x" * (length - 1))
    tracemalloc.start()
    source = SourceStream(path)

    got = [len(row[2]) for _, row in read_rows(source, COLUMNS, ["id"])]

    assert tracemalloc.get_traced_memory()[1] < 7 * rows.MAX_RECORD_BYTES
    tracemalloc.stop()
    assert got == [length]
    assert source.first_bad == [f"{path}:3: has a quote that is never closed"]


def test_rows_are_the_same_wherever_the_stream_is_cut(tmp_path, monkeypatch):
    content = HEADER + b'1,a,"b\r\n""c"""\r\n"2","d""",e\r\n\r\nx\r\n3,f,"g"h\r\n4,i,"j"\r\n5,k,"l'
    path = write_source(tmp_path / "a.csv", content)
    expected = read(path)

    for chunk in range(1, len(content)):
        monkeypatch.setattr(rows, "_CHUNK", chunk)
        source, got = read(path)
        assert got == expected[1]
        assert source.first_bad == expected[0].first_bad

    assert [line for line, _ in got] == [2, 4, 8]
    assert lines_of(source) == [6, 7, 9]


def test_a_last_row_without_a_newline_is_read_wherever_the_stream_is_cut(tmp_path, monkeypatch):
    path = write_source(tmp_path / "a.csv", HEADER + b'1,a,b\n2,c,"d, e"')

    for chunk in range(1, 40):
        monkeypatch.setattr(rows, "_CHUNK", chunk)
        source, got = read(path)
        assert ([row for _, row in got], source.bad) == ([("1", "a", "b"), ("2", "c", "d, e")], 0)


def test_a_truncated_file_gives_the_whole_rows_before_the_damage(tmp_path):
    text = "".join(f"{number} {number**5}\n" for number in range(20_000))
    path = write_source(tmp_path / "a.csv.gz", HEADER + b"1,a,b\n" + f'2,a,"{text}"\n3,a,b\n'.encode())
    path.write_bytes(path.read_bytes()[:-100])

    source, got = read(path)

    assert [row[0] for _, row in got] == ["1"]
    assert "the file is corrupt" in source.first_bad[0]
    assert source.bad == source.count


@pytest.mark.parametrize("cut", [2000, 20_000])
def test_rows_before_damage_are_given_though_a_window_would_hold_more(tmp_path, cut):
    numbers = [number**3 for number in range(20_000)]
    content = HEADER + b"".join(b"%d,a,%d\n" % (number, number**5) for number in numbers)
    path = tmp_path / "a.csv.gz"
    path.write_bytes(gzip.compress(content)[:cut])

    source, got = read(path)

    known = zlib.decompressobj(31).decompress(path.read_bytes()).count(b"\n") - 1
    assert known > 100
    assert [int(row[0]) for _, row in got] == numbers[:known]
    assert source.bad == source.count >= known


cells = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=12) | st.text('ab,"\n\r ', max_size=12)


@many
@given(
    table=st.lists(st.tuples(st.integers(0, 10**12), cells, cells), max_size=12),
    quoting=st.sampled_from([csv.QUOTE_MINIMAL, csv.QUOTE_ALL, csv.QUOTE_NONNUMERIC]),
    newline=st.sampled_from(["\n", "\r\n"]),
    chunk=st.integers(1, 50),
)
def test_what_csv_writes_is_read_as_it_was(tmp_path, monkeypatch, table, quoting, newline, chunk):
    monkeypatch.setattr(rows, "_CHUNK", chunk)
    # csv.writer leaves a lone CR unquoted if its lines end with LF, and cannot read that back itself.
    table = [
        (number, *(cell if newline == "\r\n" else cell.replace("\r", "") for cell in row)) for number, *row in table
    ]
    buffer = io.StringIO()
    writer = csv.writer(buffer, quoting=quoting, lineterminator=newline)
    writer.writerow(COLUMNS)
    starts = []
    for row in table:
        starts.append(buffer.getvalue().count("\n") + 1)
        writer.writerow(row)

    source, got = read_bytes(tmp_path, buffer.getvalue().encode())

    expected = [(start, (str(number), note, text)) for start, (number, note, text) in zip(starts, table, strict=True)]
    assert got == expected
    assert (source.count, source.bad, source.first_bad) == (len(table), 0, [])


@many
@given(
    content=st.binary(max_size=200)
    | st.lists(st.sampled_from([b'"', b",", b"\n", b"\r\n", b"1", b"a", b'""', b"\0", b"\xff"])).map(b"".join),
    has_header=st.booleans(),
    suffix=st.sampled_from(["csv", "csv.gz", "csv.zst"]),
    limits=st.sampled_from([(2**18, 2**26), (3, 40)]),
)
@example(content=b"\x1f\x8b", has_header=False, suffix="csv.gz", limits=(3, 40))
def test_any_bytes_are_read_without_a_crash(tmp_path, monkeypatch, content, has_header, suffix, limits):
    monkeypatch.setattr(rows, "_CHUNK", limits[0])
    monkeypatch.setattr(rows, "MAX_RECORD_BYTES", limits[1])
    path = write_source(tmp_path / f"a.{suffix}", HEADER * has_header + content)
    if not has_header:
        path.write_bytes(content)

    source, got = read(path)

    assert len(got) + source.bad >= source.count
    assert bool(source.first_bad) == bool(source.bad)
    assert all(row[0].isdigit() for _, row in got)
    assert [line for line, _ in got] == sorted({line for line, _ in got})
    assert source.sha256


@many
@given(data=st.data())
def test_rows_far_from_a_broken_place_are_read_as_they_were(tmp_path, data):
    table = [(str(number), f"note {number}", f'text {number}\nwith "quotes", and\nlines') for number in range(30)]
    buffer = io.StringIO()
    csv.writer(buffer, lineterminator="\n").writerows([COLUMNS, *table])
    content = bytearray(buffer.getvalue().encode())
    place = data.draw(st.integers(len(HEADER), len(content) - 1))
    content[place : place + data.draw(st.integers(0, 20))] = data.draw(st.text('",\nax1', max_size=9)).encode()

    source, got = read_bytes(tmp_path, bytes(content))

    kept = [row for _, row in got]
    assert len([row for row in table if row not in kept]) <= 3
    assert source.bad <= 6


@many
@given(row=st.text('0123456789Zx,"\n', max_size=30))
def test_no_message_quotes_the_file(tmp_path, row):
    content = f'id,note,text\n1,"Zaphodia"Zaphodia\n{row}Zaphodia,"Zaphodia\n2,a\n'

    source, _ = read_bytes(tmp_path, content.encode())

    assert source.bad
    assert "Zaphodia" not in "".join(source.first_bad)
    assert "Zaphodia" not in "".join(read_bytes(tmp_path, b"Zaphodia," + content.encode())[0].first_bad)
