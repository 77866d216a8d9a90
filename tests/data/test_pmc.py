"""PubMed Central's articles: texts checked by eye, licences, what is left out, archives."""

import gzip
import io
import tarfile
from collections import Counter
from pathlib import Path
from xml.etree import ElementTree as SlowTree

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from jobs.data.readers import pmc, source_stream
from jobs.data.readers.pmc import PMCID, read_pmc
from jobs.data.readers.source_stream import SourceStream
from launcher.recipe.sections.text_sources import PmcSource
from tests.support.prepare_runs import ASSETS, write_source
from tests.support.shared_data import shared_data

DATA = Path(__file__).parents[1] / "support" / "files"
CHECKED = [
    DATA / "PMC116589.nxml.gz",
    DATA / "PMC1481595.nxml.gz",
    DATA / "PMC509410.nxml.gz",
    ASSETS / "pmc" / "pntd.0002065.nxml.gz",
    ASSETS / "pmc" / "pone.0000217.nxml.gz",
]
many = settings(max_examples=150)


def read(path, **options):
    source = SourceStream(path)
    return source, list(read_pmc(source, PmcSource(format="pmc", files=path.name, **options)))


def article(body="<p>Text.</p>", abstract="", head="", title="A title"):
    return (
        '<article xmlns:xlink="http://www.w3.org/1999/xlink"><front><article-meta>'
        f"<title-group><article-title>{title}</article-title></title-group>{head}{abstract}</article-meta></front>"
        f"<body>{body}</body><back><ack><p>Thanks.</p></ack><ref-list><ref>Reference.</ref></ref-list></back></article>"
    )


def read_article(folder, *, headings=True, **parts):
    [document] = read(write_source(folder / "a.nxml.gz", article(**parts).encode()), headings=headings)[1]
    return document


def write_archive(path, files, archive_format=tarfile.PAX_FORMAT):
    """Write an archive of files (name and content) as PMC does, compressed as its name says."""
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w", format=archive_format) as archive:
        folder = tarfile.TarInfo("PMC000xxxxxx")
        folder.type = tarfile.DIRTYPE
        archive.addfile(folder)
        for name, content in files:
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    content = stream.getvalue()
    return write_source(path, gzip.compress(content) if path.suffix == ".tgz" else content)


@pytest.mark.parametrize("path", CHECKED, ids=lambda path: path.name.split(".nxml")[0])
def test_texts_are_those_checked_by_eye(path, golden):
    source, [document] = read(path)

    golden(path.name.replace(".nxml.gz", ".txt"), document.text + "\n")
    assert (source.count, source.bad) == (1, 0)


def test_all_articles_have_the_letters_that_a_plain_parser_finds():
    paths = sorted(shared_data("pubmed/pmc_nxml").glob("*.nxml.gz"))

    for path in paths:
        [document] = read(path, headings=False)[1]
        with gzip.open(path) as file:
            root = SlowTree.parse(file).getroot()
        meta = root.find("front/article-meta")
        parts = [meta.find("title-group/article-title"), *meta.iterfind("abstract"), root.find("body")]
        plain = "".join(letters(part) for part in parts if part.get("abstract-type") != "toc")
        assert bare(document.text) == bare(plain), path
    assert len(paths) == 17


def letters(node):
    """Text of an element in the simplest way; of its notes, floats and headings only what follows them."""
    if node.tag in {"fn", "fig", "table-wrap", "supplementary-material", "label", "title", "graphic", "object-id"}:
        return ""
    if node.tag == "ext-link" and not "".join(node.itertext()):
        return node.get("{http://www.w3.org/1999/xlink}href")
    return (node.text or "") + "".join(letters(child) + (child.tail or "") for child in node)


def bare(text):
    return "".join(filter(str.isalnum, text))


def test_licences_of_the_articles():
    documents = [read(path)[1][0] for path in sorted(shared_data("pubmed/pmc_nxml").glob("*.nxml.gz"))]

    assert Counter(document.metadata.get("license") for document in documents) == {
        "CC-BY-2.0": 5, "CC-BY": 6, "CC-PDDC": 1, "CC-PDM-1.0": 1, None: 4,
    }  # fmt: skip


LINK = '<license-p>Under <ext-link xlink:href="https://creativecommons.org/licenses/{}">this</ext-link></license-p>'


@pytest.mark.parametrize(
    ("license_", "expected"),
    [
        ('<license xlink:href="http://creativecommons.org/licenses/by/4.0/"/>', "CC-BY-4.0"),
        (f'<license license-type="open-access">{LINK.format("by-nc-nd/3.0/us/")}</license>', "CC-BY-NC-ND-3.0"),
        ('<license xlink:href="https://creativecommons.org/publicdomain/zero/1.0/"/>', "CC0-1.0"),
        (
            '<ali:license_ref xmlns:ali="http://www.niso.org/schemas/ali/1.0/">https://creativecommons.org/licenses/by/4.0/'
            "</ali:license_ref>",
            "CC-BY-4.0",
        ),
        ("<license><p>the Creative Commons\n Attribution License, which permits non-commercial</p></license>", "CC-BY"),
        ("<license><p>Creative Commons Attribution-NonCommercial-ShareAlike 3.0</p></license>", "CC-BY-NC-SA"),
        ("<license><p>Creative Commons Attribution Non-Commercial No Derivatives licence</p></license>", "CC-BY-NC-ND"),
        ("<license><p>Creative Commons CC0 waiver</p></license>", "CC0-1.0"),
        ('<license license-type=" Publisher\'s\n own "><p>All rights reserved.</p></license>', "Publisher's own"),
        (f'<license license-type="{"x" * 500}"/>', "x" * 40),
        ("<license><p>All rights reserved.</p></license>", None),
        ("", None),
    ],
)
def test_a_licence_has_a_short_name(tmp_path, license_, expected):
    document = read_article(tmp_path, head=f"<permissions>{license_}</permissions>")

    assert document.metadata.get("license") == expected


def test_licences_are_found_in_linear_time(tmp_path):
    statement = "creative commons attribution " * 100_000

    document = read_article(tmp_path, head=f"<permissions><license><p>{statement}</p></license></permissions>")

    assert "license" not in document.metadata


def test_paragraphs_headings_and_what_is_left_out(tmp_path):
    abstract = (
        "<abstract><sec><title>Aim</title><p>One.</p></sec></abstract>"
        '<abstract abstract-type="toc"><p>No.</p></abstract>'
        '<abstract abstract-type="summary"><title>Summary</title><p>Two.</p></abstract>'
        "<trans-abstract><p>Nein.</p></trans-abstract>"
    )
    body = (
        "<p>Three<fn><p>no</p></fn> <fig><caption><p>no</p></caption></fig>goes on.</p>"
        "<sec><label>1</label><title>First</title><sec><title>Bare</title><table-wrap><table><tr><td>no</td></tr></table>"
        "</table-wrap></sec><sec><title>Deep</title><p>Four:<list><list-item><p>a</p></list-item><list-item><p>b</p>"
        "</list-item></list>five.</p></sec></sec><sec><title>Supplement</title><supplementary-material/></sec>"
    )

    document = read_article(
        tmp_path, abstract=abstract, body=body, title="The<xref ref-type='fn'><sup>*</sup></xref> title"
    )
    plain = read_article(tmp_path, abstract=abstract, body=body, headings=False)

    words = "The title/Aim/One./Summary/Two./Three goes on./First/Deep/Four:/a/b/five."
    assert document.text == words.replace("/", "\n\n")
    assert plain.text == "A title/One./Two./Three goes on./Four:/a/b/five.".replace("/", "\n\n")


def test_formulas_are_text_where_there_is_text(tmp_path):
    math = '<mml:math xmlns:mml="http://www.w3.org/1998/Math/MathML"><mml:mi>x</mml:mi></mml:math>'
    tex = r"<tex-math>\begin{document}$y$\end{document}</tex-math>"
    body = (
        f"<p>so<disp-formula><label>(1)</label><alternatives><graphic/>{tex}{math}</alternatives></disp-formula>and"
        f"<disp-formula>{tex}</disp-formula>and<disp-formula><graphic/></disp-formula>then</p>"
    )

    assert read_article(tmp_path, body=body).text == "A title\n\nso x and y and then"


@pytest.mark.parametrize(
    ("head", "identity", "name"),
    [
        ('<article-id pub-id-type="pmc">123</article-id>', PMCID + 123, "PMC123"),
        ('<article-id pub-id-type="pmcid">PMC123</article-id>', PMCID + 123, "PMC123"),
        ('<article-id pub-id-type="pmid">123</article-id>', None, "a.nxml.gz:1"),
        ('<article-id pub-id-type="pmc">x</article-id>', None, "a.nxml.gz:1"),
    ],
)
def test_articles_are_identified_by_their_pmcid(tmp_path, head, identity, name):
    document = read_article(tmp_path, head=head)

    assert (document.metadata.get("identity"), document.id) == (identity, name)


@pytest.mark.parametrize(
    ("head", "version"),
    [
        ("", 0),
        ('<article-id pub-id-type="pmcid-ver">PMC123.12</article-id>', 12),
        (
            '<article-version-alternatives><article-version article-version-type="status">preprint</article-version>'
            '<article-version article-version-type="pmc-version">3</article-version></article-version-alternatives>',
            3,
        ),
        ('<article-id pub-id-type="pmcid-ver">PMC123.x</article-id>', 0),
    ],
)
def test_articles_state_their_version(tmp_path, head, version):
    document = read_article(tmp_path, head=f'<article-id pub-id-type="pmcid">PMC123</article-id>{head}')

    assert (document.metadata["identity"], document.metadata.get("version", 0)) == (PMCID + 123, version)


def test_an_article_in_a_namespace_is_read_as_one_without(tmp_path):
    math = '<mml:math xmlns:mml="http://www.w3.org/1998/Math/MathML"><mml:msup><mml:mi>x</mml:mi><mml:mn>2</mml:mn></mml:msup>'
    licence = '<permissions><license xlink:href="http://creativecommons.org/licenses/by/4.0/"/></permissions>'
    content = article(body=f"<sec><title>One</title><p>of {math}</mml:math></p></sec>", head=licence)
    namespaced = content.replace("<article ", '<article xmlns="https://jats.nlm.nih.gov/ns/archiving/1.3/" ', 1)

    for name, text in (("plain", content), ("namespaced", namespaced)):
        source, [document] = read(write_source(tmp_path / f"{name}.nxml", text.encode()))

        assert (document.text, document.metadata) == ("A title\n\nOne\n\nof x^2", {"license": "CC-BY-4.0"})
        assert (source.count, source.bad) == (1, 0)


def test_an_article_without_text_is_dropped(tmp_path):
    assert read_article(tmp_path, body="<sec><title>Scanned</title></sec>").metadata == {"drop": "no_text"}


@pytest.mark.parametrize("title", ["", " \n", "<xref ref-type='fn'><sup>*</sup></xref>"])
def test_an_empty_title_leaves_no_blank_lines(tmp_path, title):
    assert read_article(tmp_path, title=title).text == "Text."


def test_sets_hold_many_articles(tmp_path):
    content = f"<pmc-articleset>{article()}\n<article><front/></article>{article(title='Next')}</pmc-articleset>"

    source, documents = read(write_source(tmp_path / "a.xml", content.encode()))

    assert [document.text for document in documents] == ["A title\n\nText.", "Next\n\nText."]
    assert source.first_bad == [f"{source.path}:2: has no head (`front/article-meta`)"]


@pytest.mark.parametrize(
    "content", [b"", b"<html/>", article().encode()[:-10], b"<pmc-articleset>" + article().encode()]
)
def test_a_file_that_is_not_whole_is_bad(tmp_path, content):
    source, _ = read(write_source(tmp_path / "a.nxml", content))

    assert source.bad == source.count == 1
    assert "the file is corrupt" in source.first_bad[0]


@pytest.mark.parametrize("suffix", ["tar", "tar.gz", "tgz", "tar.zst"])
@pytest.mark.parametrize("archive_format", [tarfile.PAX_FORMAT, tarfile.GNU_FORMAT, tarfile.USTAR_FORMAT])
def test_archives_are_read_member_by_member(tmp_path, suffix, archive_format):
    long = f"{'d' * 90}/{'n' * 80}" + ("" if archive_format == tarfile.USTAR_FORMAT else "\u00e9" * 200)
    texts = [article(title=f"Title {number}").encode() for number in range(4)]
    files = [("a.nxml", texts[0]), (f"{long}.xml", texts[1]), ("b.jpg", b"\xff" * 5000), ("c.txt", texts[2])]
    path = write_archive(tmp_path / f"a.{suffix}", [*files, ("d.nxml", texts[3])], archive_format)

    source, documents = read(path)

    assert [document.text.split("\n")[0] for document in documents] == ["Title 0", "Title 1", "Title 3"]
    assert (source.count, source.bad) == (3, 0)


def test_bad_members_are_counted_by_number_and_the_rest_is_read(tmp_path, monkeypatch):
    monkeypatch.setattr(source_stream, "MAX_RECORD_BYTES", 2**20)
    good = article().encode()
    files = [("1.nxml", good), ("2.nxml", b"not XML"), ("3.nxml", good[:-9]), ("4.nxml", b" " * 2**21 + good)]
    path = write_archive(tmp_path / "a.tar.gz", [*files, ("5.nxml", good.replace(b"</p>", b"</q>")), ("6.nxml", good)])

    source, documents = read(path)

    assert len(documents) == 2
    assert (source.count, source.bad) == (6, 4)
    assert [bad.removeprefix(f"{path}:") for bad in source.first_bad[:3]] == [
        "3: holds no `<article>`", "4: has no end tag", "5: is larger than 1 MiB",
    ]  # fmt: skip


@pytest.mark.parametrize("cut", [100, 700, 1024, 1536])
def test_an_archive_that_ends_early_is_damaged(tmp_path, cut):
    path = write_archive(tmp_path / "a.tar", [(f"{n}.nxml", article().encode()) for n in range(20)])
    content = path.read_bytes().rstrip(b"\0")
    path.write_bytes(content[: len(content) // 512 * 512 - cut])

    source, documents = read(path)

    assert 0 < len(documents) < 20
    assert source.bad == source.count >= len(documents)
    assert "the archive ends early" in source.first_bad[0]


def test_a_header_that_is_none_is_damage_and_not_the_end(tmp_path):
    path = write_archive(tmp_path / "a.tar", [(f"{n}.nxml", article().encode()) for n in range(20)])
    content = path.read_bytes()
    place = content.index(b"9.nxml")
    path.write_bytes(content[:place] + b"\xff" + content[place + 1 :])

    source, documents = read(path)

    assert len(documents) == 9
    assert source.bad == source.count > 9
    assert f"{path}:11: the file is corrupt: the header of a member is corrupt" in source.first_bad[0]


def test_a_hole_in_an_archive_is_damage_and_not_the_end(tmp_path):
    path = write_archive(tmp_path / "a.tar", [(f"{n}.nxml", article().encode()) for n in range(20)])
    content = bytearray(path.read_bytes())
    place = content.index(b"9.nxml") // 512 * 512
    content[place : place + 1024] = bytes(1024)
    path.write_bytes(content)

    source, documents = read(path)

    assert len(documents) == 9
    assert source.bad == source.count > 9
    assert source.first_bad == [f"{path}:11: the file is corrupt: the archive goes on after its end mark"]


def test_the_second_of_two_archives_in_one_file_is_not_passed_over(tmp_path):
    path = write_archive(tmp_path / "a.tar.gz", [("a.nxml", article().encode())])
    path.write_bytes(2 * path.read_bytes())

    source, _ = read(path)

    assert source.bad == source.count > 0
    assert "the archive goes on after its end mark" in source.first_bad[0]


def test_names_as_large_as_an_archive_are_not_held(tmp_path):
    import tracemalloc

    header = tarfile.TarInfo("././@LongLink")
    header.type, header.size = tarfile.GNUTYPE_LONGNAME, 2**26
    content = header.tobuf(tarfile.GNU_FORMAT) + b"a" * 2**26
    member = write_archive(tmp_path / "b.tar", [("a.nxml", article().encode())]).read_bytes()
    path = write_source(tmp_path / "a.tar.gz", content + member)
    tracemalloc.start()

    _, documents = read(path)

    assert tracemalloc.get_traced_memory()[1] < 2**23
    tracemalloc.stop()
    assert len(documents) == 1


@many
@given(content=st.binary(max_size=600), suffix=st.sampled_from(["tar", "tar.gz", "nxml"]))
@example(content=b"\0" * 1024, suffix="tar")
def test_any_bytes_are_read_without_a_crash(tmp_path, content, suffix):
    source, documents = read(write_source(tmp_path / f"a.{suffix}", content))

    assert documents == []
    assert bool(source.first_bad) == bool(source.bad)


@many
@given(data=st.data())
def test_damage_to_an_archive_is_survived(tmp_path, data):
    path = write_archive(tmp_path / "a.tar", [(f"{n}.nxml", article().encode()) for n in range(5)])
    content = bytearray(path.read_bytes())
    place = data.draw(st.integers(0, len(content) - 1))
    content[place : place + 12] = data.draw(st.binary(max_size=24))
    path.write_bytes(content)

    source, documents = read(path)

    assert len(documents) <= source.count <= 40
    assert bool(source.first_bad) == bool(source.bad)


def test_elements_of_the_layout_have_one_role():
    assert not pmc._NO_TEXT & pmc._BLOCKS
