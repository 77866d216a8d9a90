"""XML's inline markup and formulas as plain text."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from lxml import etree

from jobs.data.readers.markup import ElementRoles, Paragraph, paragraphs_of, squeeze, text_of

MATHML = 'xmlns:mml="http://www.w3.org/1998/Math/MathML"'


def text(inside):
    return text_of(etree.fromstring(f"<t {MATHML}>{inside}</t>"))


@pytest.mark.parametrize(
    ("markup", "expected"),
    [
        ("", ""),
        (" a \n\t b ", "a b"),
        ("in <i>vitro</i> and <b>in <i>vivo</i></b>.", "in vitro and in vivo."),
        ("5-<i>O</i>-methyl", "5-O-methyl"),
        ("H<sub>2</sub>O and IC<sub>50</sub>", "H2O and IC50"),
        ("Ca<sup>2+</sup>, CD4<sup>+</sup>, m<sup>2</sup>", "Ca2+, CD4+, m2"),
        ("<sup>18</sup>F-FDG [<sup>3</sup>H]", "18F-FDG [3H]"),
        ("10<sup>6</sup> and 10<sup>-6</sup>, 10<sup>\u2212 3</sup>", "10^6 and 10^-6, 10\u2212 3"),
        ("25<sup>+0</sup> weeks, 1<sup>st</sup>, 37<sup>o</sup>C", "25+0 weeks, 1st, 37oC"),
        ("CO<sub>3</sub><sup>2-</sup>", "CO3^2-"),
        ("virus<sup>RV-C</sup>microbiome<sup>mixed</sup>T2", "virus^RV-C microbiome^mixed T2"),
        ("<i>Gata6</i><sup><i>del</i></sup><i>Cre</i> <sup>a</sup>b", "Gata6^del Cre ab"),
        ("(1-f)<sup>-1</sup>, (1-f)<sup>(n/Q)</sup>, [Fe]<sup>3+</sup>", "(1-f)^-1, (1-f)^(n/Q), [Fe]^3+"),
        ("Gata6<sup>loxP/+</sup> and exp(d<sup>Q</sup>)", "Gata6^loxP/+ and exp(d^Q)"),
        ("2<sup>-\u0394\u0394Ct</sup> method", "2^-\u0394\u0394Ct method"),
        (
            "2<sup>\u2212(a+b)</sup>, e<sup>-kt</sup>, 2<sup>\u2013\u0394<i>C</i><sub>T</sub></sup>",
            "2^\u2212(a+b), e^-kt, 2^\u2013\u0394CT",
        ),
        ("OH<sup>-</sup>, src<sup>-/-</sup>, s<sup>-1</sup>, NH<sub>4</sub><sup>+</sup>", "OH-, src-/-, s-1, NH4+"),
        ("x<sub>i</sub><sup>2</sup> + <i>x</i><sub><i>i</i></sub><sup>-1</sup>", "xi^2 + xi^-1"),
        ("I<sub>Ca</sub><sup>2+</sup>, HCO<sub>3</sub><sup>-</sup>, x<sub>i</sub>y<sup>2</sup>", "ICa2+, HCO3-, xiy2"),
        ("NF-<i><sub>\u03ba</sub></i>B", "NF-\u03baB"),
        ("fast-acting \u03b2\n\t\t\t<sub>2</sub>-agonist", "fast-acting \u03b22-agonist"),
        ("a &lt; b &amp; c", "a < b & c"),
        ("80\u00a0\u00b5l", "80\u00a0\u00b5l"),
        ("one<break/>two", "one two"),
        ("<u>under</u>lined", "underlined"),
    ],
)
def test_inline_markup_neither_joins_nor_splits_words(markup, expected):
    assert text(markup) == expected


@pytest.mark.parametrize(
    ("markup", "expected"),
    [
        ('was<sup><xref ref-type="bibr">1</xref>,<xref ref-type="bibr">2</xref></sup>.', "was."),
        ('was<xref ref-type="bibr"><sup>1</sup></xref>.', "was."),
        ('was<xref ref-type="bibr"><sup>1</sup></xref>,<xref ref-type="bibr"><sup>2</sup></xref>.', "was."),
        (
            'was<xref ref-type="bibr"><sup>1</sup></xref><sup>,</sup><xref ref-type="bibr"><sup>2</sup></xref> a',
            "was a",
        ),
        (
            'was,<sup><xref ref-type="bibr">1</xref></sup><sup>\u2013</sup><sup><xref ref-type="bibr">3</xref></sup> a',
            "was, a",
        ),
        ('was<xref ref-type="bibr"><sup>1</sup></xref>, <xref ref-type="bibr"><sup>2</sup></xref>, a', "was, a"),
        ('A<xref ref-type="bibr"><sup>1</sup></xref>, B<xref ref-type="bibr"><sup>2</sup></xref>, C', "A, B, C"),
        ('A<xref ref-type="bibr"><sup>1</sup></xref>, <i>x</i>, <xref ref-type="bibr"><sup>2</sup></xref>.', "A, x, ."),
        ('by us<xref ref-type="fn">*</xref> and p<sup>*</sup>', "by us and p*"),
        ('was [<xref ref-type="bibr">1</xref>].', "was [1]."),
        ('(<xref ref-type="bibr">Smith, 2001</xref>)', "(Smith, 2001)"),
        ('see <xref ref-type="fig">Figure 1</xref>', "see Figure 1"),
        ('at <ext-link xmlns:xlink="http://www.w3.org/1999/xlink" xlink:href="http://a.org"/>.', "at http://a.org."),
        ("at <ext-link>http://b.org</ext-link>.", "at http://b.org."),
    ],
)
def test_raised_citations_are_left_out_and_other_references_stay(markup, expected):
    assert text(markup) == expected


@pytest.mark.parametrize(
    ("title", "expected"),
    [
        ('On mice<xref ref-type="fn" rid="f1">*</xref>', "On mice"),
        ('On mice<xref ref-type="fn" rid="f1">1</xref>', "On mice"),
        ("On mice<sup>*</sup>", "On mice"),
        ("On mice<sup>\u2020</sup>.", "On mice."),
        ("The B<sup>*</sup> allele", "The B* allele"),
        ("HLA-B*57 in [<xref ref-type='bibr'>1</xref>]", "HLA-B*57 in [1]"),
    ],
)
@pytest.mark.parametrize("name", ["article-title", "ArticleTitle"])
def test_the_mark_of_a_titles_footnote_is_left_out(name, title, expected):
    assert text_of(etree.fromstring(f"<{name}>{title}</{name}>")) == expected


SCRIPTS = {"msup": "{}<sup>{}</sup>", "msubsup": "{}<sub>{}</sub><sup>{}</sup>"}


@pytest.mark.parametrize(
    ("parts", "expected"),
    [
        (("Ca", "2+"), "Ca2+"), (("Na", "+"), "Na+"), (("Cl", "\u2212"), "Cl\u2212"), (("[Fe]", "3+"), "[Fe]^3+"),
        (("CO", "3", "2-"), "CO3^2-"), (("NH", "4", "+"), "NH4+"), (("PO", "4", "3\u2013"), "PO4^3\u2013"),
    ],
)  # fmt: skip
def test_charges_are_written_alike_in_text_and_in_formulas(parts, expected):
    name = "msup" if len(parts) == 2 else "msubsup"
    formula = "".join(f"<mml:mrow><mml:mtext>{part}</mml:mtext></mml:mrow>" for part in parts)

    assert text(SCRIPTS[name].format(*parts)) == expected
    assert text(f"<mml:math><mml:{name}>{formula}</mml:{name}></mml:math>") == expected


@pytest.mark.parametrize(
    ("formula", "expected"),
    [
        ("<mml:msup><mml:mrow><mml:mi>R</mml:mi></mml:mrow> <mml:mn>2</mml:mn></mml:msup>", "R^2"),
        ("<mml:mfrac><mml:mrow><mml:mi>a</mml:mi><mml:mo>+</mml:mo><mml:mi>b</mml:mi></mml:mrow><mml:mi>c</mml:mi>"
         "</mml:mfrac>", "(a+b)/c"),
        ("<mml:msubsup><mml:mi>x</mml:mi><mml:mi>i</mml:mi><mml:mn>2</mml:mn></mml:msubsup>", "x_i^2"),
        ("<mml:msqrt><mml:mi>n</mml:mi><mml:mo>-</mml:mo><mml:mn>1</mml:mn></mml:msqrt>", "\u221a(n-1)"),
        ("<mml:mfenced><mml:mi>x</mml:mi><mml:mi>y</mml:mi></mml:mfenced>", "(x, y)"),
        ("<mml:mtable><mml:mtr><mml:mn>1</mml:mn><mml:mn>2</mml:mn></mml:mtr><mml:mtr><mml:mn>3</mml:mn></mml:mtr>"
         "</mml:mtable>", "1, 2; 3"),
        ("<mml:semantics><mml:mi>x</mml:mi><mml:annotation>\\frac</mml:annotation></mml:semantics>", "x"),
        ("<mml:msubsup><mml:mi>x</mml:mi><mml:mi>i</mml:mi><mml:mo>+</mml:mo></mml:msubsup>", "x_i^+"),
        ("<mml:msup><mml:mi>x</mml:mi><mml:mrow><mml:mo>-</mml:mo><mml:mn>1</mml:mn></mml:mrow></mml:msup>", "x^(-1)"),
        ("<mml:mfrac><mml:mi>a</mml:mi></mml:mfrac>", "a"),
        ("", ""),
    ],
)  # fmt: skip
def test_formulas_are_readable(formula, expected):
    assert text(f"so <mml:math>{formula}</mml:math>, then") == squeeze(f"so {expected}, then")


def test_tex_stands_in_only_where_there_is_no_mathml():
    tex = r"<tex-math>\documentclass{minimal}\begin{document}$$x_i$$\end{document}</tex-math>"

    assert text(f"<f>{tex}</f>") == "x_i"
    assert text(f"<f>{tex}<mml:math><mml:mi>y</mml:mi></mml:math></f>") == "y"
    assert text("<f><tex-math>$a+b$</tex-math></f>") == "a+b"


def test_paragraphs_and_headings_are_told_apart():
    layout = ElementRoles(
        skipped=frozenset({"fig"}), blocks=frozenset({"p", "title", "item"}), headings=frozenset({"title"})
    )
    body = "<b>lead<s><title>One</title><p>a<item>b</item>c<fig>no</fig></p></s><p> </p>tail</b>"

    assert paragraphs_of(etree.fromstring(body), layout) == [
        Paragraph("lead"), Paragraph("One", 2), Paragraph("a"), Paragraph("b"), Paragraph("c"), Paragraph("tail"),
    ]  # fmt: skip


def test_nesting_does_not_end_in_a_recursion_error():
    assert text("<i>" * 240 + "x" + "</i>" * 240) == "x"
    assert text("<mml:math>" + "<mml:mrow>" * 240 + "<mml:mi>x</mml:mi>" + "</mml:mrow>" * 240 + "</mml:math>") == "x"


pieces = st.sampled_from(["a", " ", "1", "<sup>", "</sup>", "<sub>", "</sub>", "<p>", "</p>", "<i>", "</i>", "<x/>"])


@given(st.lists(pieces, max_size=14).map("".join))
def test_all_letters_of_any_markup_are_kept(markup):
    try:
        element = etree.fromstring(f"<t>{markup}</t>")
    except etree.XMLSyntaxError:
        return
    layout = ElementRoles(blocks=frozenset({"p"}))

    written = "".join(paragraph.text for paragraph in paragraphs_of(element, layout))

    assert [c for c in written if c not in " ^"] == [c for c in "".join(element.itertext()) if c != " "]
