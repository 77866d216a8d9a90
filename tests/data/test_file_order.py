"""Which file is newer: by its name, whatever the order of sources; what cannot be told is refused."""

from pathlib import Path

import pytest

from jobs.data.dedup.file_order import in_order_of_release
from jobs.data.sampling.corpus_reader import open_corpus
from jobs.kinds.prepare import main
from launcher.errors import LauncherError
from launcher.recipe.sections.text_sources import MedlineSource, PmcSource, TextSource
from tests.support.prepare_runs import files_of, make_context

BASELINE, UPDATES = "pubmed26n0001.xml", "pubmed26n1335.xml"


def citation(pmid, text, version=1):
    return (
        f'<PubmedArticle><MedlineCitation><PMID Version="{version}">{pmid}</PMID><Article>'
        f"<ArticleTitle>{text}</ArticleTitle><Abstract><AbstractText>Text of {text}.</AbstractText></Abstract>"
        "<Language>eng</Language></Article></MedlineCitation></PubmedArticle>"
    )


def withdrawal(pmid):
    return f'<DeleteCitation><PMID Version="1">{pmid}</PMID></DeleteCitation>'


OLD = [citation(1, "old"), citation(2, "withdrawn later"), citation(3, "untouched"), citation(4, "first version")]
NEW = [citation(1, "revised"), citation(4, "second version", version=2), withdrawal(2)]


def write(path, records):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"<PubmedArticleSet>{''.join(records)}</PubmedArticleSet>")


def make(folder, names, *patterns):
    """Prepare a corpus of `OLD` and `NEW` under these names, with a source for each pattern."""
    for name, records in zip(names, (OLD, NEW), strict=True):
        write(folder / name, records)
    sources = [{"format": "medline", "files": f"./{pattern}"} for pattern in patterns]
    main(make_context(folder, sources=sources, validation=0))
    return open_corpus(folder / "corpora" / "corpus")


def texts_of(corpus):
    return [corpus.decode(ids) for ids in corpus.documents("train")]


@pytest.mark.parametrize(
    "names",
    [
        (f"baseline/{BASELINE}", f"updatefiles/{UPDATES}"),
        (f"z/{BASELINE}", f"a/{UPDATES}"),
        ("z/pubmed25n1600.xml", "a/pubmed26n0001.xml"),
        ("z/pubmed26n9999.xml", "a/pubmed26n10000.xml"),
        ("z/medline16n0812.xml", "a/PUBMED26n0001.xml"),
    ],
)
def test_the_order_of_sources_and_folders_makes_no_difference(tmp_path, names):
    old, new = (str(Path(name).parent / "*") for name in names)
    corpora = []
    for number, patterns in enumerate([(old, new), (new, old), ("*/*n*.xml",)]):
        corpora.append(make(tmp_path / str(number), names, *patterns))

    for corpus in corpora:
        counts = corpus.manifest.counts
        assert counts.dropped == {"deleted": 1, "superseded": 2}
        assert counts.documents["train"] == 3
        assert corpus.manifest.fingerprint == corpora[0].manifest.fingerprint
        shards = {name: content for name, content in files_of(corpus.folder).items() if name != "manifest.json"}
        assert shards == {n: c for n, c in files_of(corpora[0].folder).items() if n != "manifest.json"}


@pytest.mark.parametrize(
    ("names", "pmid"),
    [
        (("a.xml", "b.xml"), 1),
        ((BASELINE, "new.xml"), 1),
        ((f"a/{BASELINE}", f"b/{BASELINE}"), 1),
        (("pubmed26n0001.part1.xml", "pubmed26n0001.part2.xml"), 1),
    ],
)
def test_files_whose_order_cannot_be_told_are_refused_if_it_matters(tmp_path, names, pmid):
    with pytest.raises(LauncherError, match=rf"PMID {pmid}, version 1, and their names do not tell") as refusal:
        make(tmp_path, names, "**/*.xml")
    assert all(name in str(refusal.value) for name in names)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ([citation(1, "one")], [citation(2, "other")]),
        ([citation(1, "one")], [citation(1, "another version", version=2)]),
        ([citation(1, "same")], [citation(1, "same"), citation(2, "other")]),
        ([withdrawal(1)], [withdrawal(1), citation(2, "other")]),
    ],
)
def test_where_the_order_makes_no_difference_any_names_will_do(tmp_path, one, other):
    write(tmp_path / "a.xml", [*one, citation(9, "more")])
    write(tmp_path / "b.xml", other)
    main(make_context(tmp_path, sources=[{"format": "medline", "files": "./*.xml"}], validation=0))
    assert open_corpus(tmp_path / "corpora" / "corpus").manifest.counts.documents["train"] >= 2


@pytest.mark.parametrize("names", [("a.xml", "b.xml"), (UPDATES, "b.xml")])
def test_a_withdrawal_of_unknown_time_is_refused(tmp_path, names):
    write(tmp_path / names[0], [citation(2, "text")])
    write(tmp_path / names[1], [withdrawal(2), citation(3, "text")])
    with pytest.raises(LauncherError, match="PMID 2, version 1"):
        main(make_context(tmp_path, sources=[{"format": "medline", "files": "./*.xml"}], validation=0))


def test_files_of_other_formats_keep_their_places():
    medline = MedlineSource(format="medline", files="m")
    text, pmc = TextSource(format="text", files="t"), PmcSource(format="pmc", files="p")
    listed = [
        (Path("b/pubmed26n0002.xml"), medline),
        (Path("b/z.txt"), text),
        (Path("mine.xml"), medline),
        (Path("a/oa_comm_xml.incr.2025-06-20.tar.gz"), pmc),
        (Path("b/oa_comm_xml.PMC001xxxxxx.baseline.2025-06-18.tar.gz"), pmc),
        (Path("a/pubmed26n0001.xml.gz"), medline),
        (Path("b/a.txt"), text),
    ]
    expected = [listed[place] for place in (5, 1, 2, 4, 3, 0, 6)]
    assert list(in_order_of_release(listed)) == expected
