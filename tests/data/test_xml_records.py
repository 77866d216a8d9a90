"""Cutting records out of XML that is damaged, hostile or no XML; run as a fuzz test of the XML readers as well."""

import gzip
import io
import itertools
import tracemalloc
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from lxml import etree

from jobs.data.readers import source_stream
from jobs.data.readers import xml_records as xml
from jobs.data.readers.medline import read_medline
from jobs.data.readers.source_stream import SourceStream
from jobs.data.readers.xml_records import BrokenXmlError, Cutter
from launcher.recipe.sections.text_sources import MedlineSource
from tests.support.prepare_runs import write_source

CHECKED = Path(__file__).parents[1] / "support" / "files" / "citations.xml.gz"
many = settings(max_examples=150)


def cut(content):
    """What is cut out of a `set` of `r`, as (line, content or fault), and how the file ended."""
    found = []
    try:
        for part in Cutter(io.BytesIO(content), ("r",), ("set",)):
            found.append((part.line, part.fault or part.content))
    except BrokenXmlError as error:
        return found, str(error)
    return found, ""


def read(path):
    source = SourceStream(path)
    return source, list(read_medline(source, MedlineSource(format="medline", files=path.name)))


def citation(pmid, text="Some text.", title="A title."):
    return (
        f'<PubmedArticle><MedlineCitation><PMID Version="1">{pmid}</PMID><Article>'
        f"<ArticleTitle>{title}</ArticleTitle>\n"
        f"<Abstract><AbstractText>{text}</AbstractText></Abstract><Language>eng</Language></Article></MedlineCitation>"
        "</PubmedArticle>\n"
    ).encode()


def citations(*records, prolog=b'<?xml version="1.0"?>\n'):
    return prolog + b"<PubmedArticleSet>\n" + b"".join(records) + b"</PubmedArticleSet>\n"


def test_records_are_cut_out_with_their_lines():
    content = b"<?xml version='1.0'?>\n<!DOCTYPE set>\n<set>\n<r>1</r><r a='b'>\n2</r>\n\n<r>3</r >\n</set>"

    assert cut(content) == ([(4, b"<r>1</r>"), (4, b"<r a='b'>\n2</r>"), (7, b"<r>3</r >")], "")


@pytest.mark.parametrize("size", [1, 2, 3, 7, 64])
def test_records_are_the_same_however_the_stream_comes(size):
    content = b"<set><!-- <r> --><r>1<![CDATA[</r>]]></r>\n<?pi <r> ?><r>2</r></set>"

    class Slow(io.BytesIO):
        def read1(self, count=-1):  # noqa: ARG002
            return super().read1(size)

    found = [(c.line, c.content) for c in Cutter(Slow(content), ("r",), ("set",))]

    assert found == [(1, b"<r>1<![CDATA[</r>]]></r>"), (2, b"<r>2</r>")]


@pytest.mark.parametrize(
    "text",
    ["<!-- </r><r> -->", "<![CDATA[</r><r>]]>", "<?pi </r><r> ?>", "<!-- <![CDATA[ --> <!-- ]]><? -->", "<rr>x</rr>"],
)
def test_tags_in_comments_cdata_and_instructions_are_no_tags(text):
    found, end = cut(f"<set>{text}<r>a{text}b</r>{text}<r>c</r></set>".encode())

    assert [content for _, content in found] == [f"<r>a{text}b</r>".encode(), b"<r>c</r>"]
    assert end == ""


def test_tags_in_a_document_type_are_no_tags():
    found, end = cut(b'<!DOCTYPE set [ <!ENTITY e "<set><r>no</r>"> ]><set><r>yes</r></set>')

    assert ([c for _, c in found], end) == ([b"<r>yes</r>"], "")


def test_a_record_without_its_end_costs_only_itself():
    found, end = cut(b"<set>\n<r>1\n<r>2</r>\n<r>3</other>\n<r>4</r></set>")

    assert found == [(2, "has no end tag"), (3, b"<r>2</r>"), (4, "has no end tag"), (5, b"<r>4</r>")]
    assert end == ""
    assert cut(b"<set>\n<a/>1</r>\n<r>2</r></set>")[0] == [(2, "has no start tag"), (3, b"<r>2</r>")]


@pytest.mark.parametrize(
    ("content", "end"),
    [
        (b"", "holds no `<r>`"),
        (b"PK\x03\x04 not XML", "holds no `<r>`"),
        (b"<html><body/></html>", "holds no `<r>`"),
        (b"<set><r>1</r>", "ends before its last end tag"),
        (b"<set><r>1</r><r>2", "ends before its last end tag"),
        (b"<set><r>1</r><!-- </set>", "ends before its last end tag"),
        (b"<set><r>1</r></set><set>", "ends before its last end tag"),
    ],
)
def test_a_file_that_is_not_whole_is_noticed(content, end):
    assert cut(content)[1] == end


def test_several_documents_in_one_file_are_read():
    found, end = cut(b"<?xml version='1.0'?><set><r>1</r></set>\n<?xml version='1.0'?><set><r>2</r></set>\n")

    assert ([c for _, c in found], end) == ([b"<r>1</r>", b"<r>2</r>"], "")


def test_a_record_that_is_too_large_is_skipped_without_being_held(monkeypatch):
    monkeypatch.setattr(source_stream, "MAX_RECORD_BYTES", 2**20)
    content = b"<set>\n<r>" + b"\nx" * 2**24 + b"</r>\n<r>next</r><r>" + b"y" * 2**20 + b"</r></set>"
    tracemalloc.start()

    found, end = cut(content)

    assert tracemalloc.get_traced_memory()[1] < 6 * 2**20
    tracemalloc.stop()
    assert [(line, c) for line, c in found if c == b"<r>next</r>"] == [(2**24 + 3, b"<r>next</r>")]
    assert [c for _, c in found if c != b"<r>next</r>"] == ["is larger than 1 MiB"] * 2
    assert end == ""


@pytest.mark.parametrize(
    ("inside", "fault"),
    [
        ("&lol9;", "undeclared entity in line 9"),
        ("<i>" * 3000 + "</i>" * 3000, "resource limit in line 9"),
        ("x" * 11_000_000, "resource limit in line"),
        ("a\0b", "invalid char in line 9"),
        ("<b>a</i>", "tag name mismatch in line 9"),
        ("a & b", "name required in line 9"),
    ],
)
def test_a_malformed_record_is_counted_with_its_line_and_the_rest_is_read(tmp_path, inside, fault):
    entities = b'<!DOCTYPE lolz [ <!ENTITY lol "lol"> <!ENTITY lol9 "&lol;&lol;&lol;"> ]>\n'
    records = citation(1), citation(2), citation(3, title="\n", text=inside), citation(4)
    path = write_source(tmp_path / "a.xml.gz", citations(*records, prolog=entities))

    source, documents = read(path)

    assert [document.metadata["identity"] for document in documents] == [1, 2, 4]
    assert (source.count, source.bad) == (4, 1)
    assert source.first_bad[0].startswith(f"{path}:7: is not well-formed XML ({fault}")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("caf&eacute;&nbsp;&alpha;&mdash;&beta; &nsubE;", "caf\u00e9\u00a0\u03b1\u2014\u03b2 \u2ac5\u0338"),
        ("&alpha; &lt;&LT;&amp;&AMP;&quot;&apos;&rsqb;&rsqb;&GT;", "\u03b1 <<&&\"']]>"),
        ("&alpha; &#945; <![CDATA[&alpha;<]]><!-- &alpha; --><?x &alpha;?>", "\u03b1 \u03b1 &alpha;<"),
        ("<![CDATA[&alpha;]]>", "&alpha;"),
        ('<i a="&beta;">&Alpha;</i>', "\u0391"),
    ],
)
def test_names_of_characters_are_known_without_their_document_type(tmp_path, text, expected):
    prolog = b'<!DOCTYPE PubmedArticleSet [ <!ENTITY alpha "&beta;&beta;&beta;"> ]>\n'
    source, [document] = read(write_source(tmp_path / "a.xml", citations(citation(1, text), prolog=prolog)))

    assert document.text == f"A title.\n{expected}"
    assert source.bad == 0


@pytest.mark.parametrize("unit", ["&alpha;", "&alpha", "&", "<?>", "<!DOCTYPE <?>", "<!DOCTYPE <!--->", "<![CDATA[]]>"])
def test_names_of_characters_are_replaced_in_linear_time(unit):
    record = xml.Cut(1, "r", f"<r>{unit * 100_000}&alpha;</r>".encode())

    try:
        assert len("".join(record.parse().itertext())) <= 100_001
    except ValueError as error:
        assert "is not well-formed XML" in str(error)


def test_a_refusal_quotes_nothing(tmp_path):
    path = write_source(tmp_path / "a.xml", citations(citation(1, text="<Zaphodia>&Zaphodia;</b>")))

    source, _ = read(path)

    assert source.bad == 1
    assert "Zaphodia" not in source.first_bad[0]


def test_bytes_that_are_not_utf_8_cost_only_their_record(tmp_path):
    path = write_source(
        tmp_path / "a.xml", citations(citation(1), citation(2).replace(b"Some", b"\xff\xfe"), citation(3))
    )

    source, documents = read(path)

    assert [document.metadata["identity"] for document in documents] == [1, 3]
    assert (source.count, source.bad) == (3, 1)


@pytest.mark.parametrize(
    "markup", [b"<b/>", b"&alpha;&x;", b"<b " + b" ".join(b'a%d=""' % n for n in range(200)) + b"/>"]
)
def test_a_record_of_markup_only_is_refused_before_it_takes_memory(markup):
    content = b"<set><r>" + markup * (5 * 2**20 // len(markup)) + b"</r></set>"
    [record] = Cutter(io.BytesIO(content), ("r",), ("set",))

    if content.count(b"<") + content.count(b"&") + content.count(b'="') > xml.MAX_MARKUP:
        with pytest.raises(ValueError, match="more than 1,048,576 tags, attributes and references"):
            record.parse()
    else:
        assert record.parse().tag == "r"


def test_namespaces_that_the_document_type_declares_are_known():
    [record] = Cutter(io.BytesIO(b"<r><mml:math><mml:mi>x</mml:mi></mml:math></r>"), ("r",))

    assert record.parse()[0].tag == "{http://www.w3.org/1998/Math/MathML}math"


def test_a_truncated_gzip_file_is_damage(tmp_path):
    path = write_source(tmp_path / "a.xml.gz", citations(*(citation(n, text=f"{n * 7919}" * 9) for n in range(500))))
    path.write_bytes(path.read_bytes()[:-300])

    source, documents = read(path)

    assert 0 < len(documents) < 500
    assert source.bad == source.count >= len(documents)
    assert "the file is corrupt" in source.first_bad[0]


MARKUP = """<PubmedArticleSet> </PubmedArticleSet> <PubmedArticle> </PubmedArticle> <DeleteCitation> </DeleteCitation>
<PMID> </PMID> 9 <!-- --> <![CDATA[ ]]> <? ?> <!DOCTYPE [ ]> < > &amp; &lol; \0"""
tags = st.sampled_from([*(word.encode() for word in MARKUP.split()), b"\n", b"\xff", citation(1), citation(2)])


@many
@given(parts=st.lists(tags | st.binary(max_size=8), max_size=30), suffix=st.sampled_from(["xml", "xml.gz"]))
@example(parts=[b"\x1f\x8b"], suffix="xml.gz")
def test_any_bytes_are_read_without_a_crash(tmp_path, parts, suffix):
    path = write_source(tmp_path / f"a.{suffix}", b"".join(parts))

    source, documents = read(path)

    assert all(isinstance(document.text, str) for document in documents)
    assert len(documents) <= source.count
    assert bool(source.first_bad) == bool(source.bad)


@many
@given(data=st.data())
def test_damage_to_a_real_file_costs_little_or_is_noticed(tmp_path, data):
    content = bytearray(gzip.decompress(CHECKED.read_bytes()))
    place = data.draw(st.integers(0, len(content) - 1))
    content[place : place + data.draw(st.integers(0, 20))] = data.draw(st.binary(max_size=20))
    path = write_source(tmp_path / "a.xml", bytes(content))

    source, documents = read(path)

    # Two records may have become one, and a file without its end is bad altogether.
    assert source.bad == source.count or (len(documents) >= 18 and len(documents) + source.bad >= 19)


hidden = st.sampled_from(
    ["<!-- </r> <r> -->", "<![CDATA[</r><r>]]>", "<?pi <r> </r> ?>", "text", "\n", "&lt;r>", "<rr/>"]
)
contents = st.recursive(hidden, lambda inner: st.lists(inner, max_size=4).map(lambda parts: f"<s>{''.join(parts)}</s>"))


@many
@given(records=st.lists(contents), between=st.lists(contents, min_size=1))
def test_records_of_well_formed_files_are_those_of_a_parser_of_the_whole(records, between):
    gaps = itertools.cycle(between)
    content = f"<set>{''.join(next(gaps) + f'<r>{record}</r>' for record in records)}</set>".encode()
    whole = [etree.tostring(node, with_tail=False) for node in etree.fromstring(content).iter("r")]

    found, end = cut(content)

    assert [etree.tostring(etree.fromstring(record)) for _, record in found] == whole
    assert end == ""
