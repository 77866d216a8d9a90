"""Documents that have words of evaluation sets: found by the index and by a plain program, dropped, accounted for."""

import csv
import gzip
import hashlib
import json
import unicodedata

import pytest
from datatrove.data import Document
from hypothesis import given, settings
from hypothesis import strategies as st

from jobs.data.clean import Cleaner, overlap
from jobs.data.clean.decontaminate import Decontaminator, account, describe_decontamination
from jobs.data.clean.evaluation import read_records
from jobs.data.clean.overlap import build_index, words_of
from jobs.data.corpus.file_list import corpus_file_list
from jobs.data.sampling.corpus_reader import open_corpus
from jobs.kinds.prepare import main
from launcher.errors import LauncherError
from launcher.recipe.kinds.prepare import Clean
from tests.support.prepare_runs import abstracts, make_context, write_pile, write_source
from tests.support.shared_data import shared_data

SENTENCE = "the quick brown fox jumps over the lazy dog near the quiet river bank today"
QUESTION = "Does the brown fox really jump over dogs?"


def write_set(path, records):
    """Write an evaluation set as JSON lines."""
    return write_source(path, b"".join(json.dumps(record).encode() + b"\n" for record in records))


def index_of(folder, *strings, ngram=13):
    return build_index([write_set(folder / "set.jsonl", [{"text": string} for string in strings])], ngram)


def plain_search(strings, ngram, text):
    """The same by comparing everything with everything."""
    words = words_of(text)
    for string in strings:
        wanted = words_of(string)
        size = ngram if len(wanted) >= ngram else len(wanted)
        if len(wanted) < ngram and not (len(wanted) >= 8 and string.endswith("?")):
            continue
        runs = [wanted[start : start + size] for start in range(len(wanted) - size + 1)]
        if any(words[start : start + size] in runs for start in range(len(words) - size + 1)):
            return True
    return False


@pytest.mark.parametrize("form", ["NFC", "NFD", "NFKC", "NFKD"])
@given(
    text=st.text(
        st.characters(codec="utf-8") | st.sampled_from("e\u0301\ufb01\u2460\u00bd\uff21\u0130\u00b2\u6f22\u304b\u3099 ")
    )
)
def test_words_are_the_same_in_every_normal_form(form, text):
    assert words_of(unicodedata.normalize(form, text)) == words_of(text)


@pytest.mark.parametrize("form", ["none", "nfc", "nfkc"])
@pytest.mark.parametrize("rare", ["\ufb01brosis of \uff22 cells", "10\u00b2 \u00b5m", "caf\u00e9", "cafe\u0301"])
@pytest.mark.parametrize("longer", [1, 20_000])
def test_text_is_found_whatever_form_it_is_normalised_to(tmp_path, form, rare, longer):
    text = f"{SENTENCE.replace('lazy', rare)}"
    cleaner = Cleaner(Clean(normalise=form), index_of(tmp_path, text))

    documents = list(cleaner.run([Document("filler " * longer + text, "1"), Document("filler " * longer, "2")]))

    assert [document.id for document in documents] == ["2"]
    assert cleaner.dropped == {"contaminated": 1}


def test_a_run_of_words_is_found_whatever_its_case_and_punctuation(tmp_path):
    index = index_of(tmp_path, "nothing of it", SENTENCE)

    assert index.find(f"Before... {SENTENCE.upper()}!") == 1
    assert index.find(SENTENCE.replace(" ", "-\n")) == 1
    assert index.find(" ".join(SENTENCE.split()[1:14])) == 1
    assert index.find(" ".join(SENTENCE.split()[1:13])) is None
    assert index.find(SENTENCE.replace("lazy", "tired")) is None
    assert index.find("") is None


def test_a_short_question_is_found_as_a_whole_and_a_short_answer_is_not(tmp_path):
    answer = "CT scan of the chest, abdomen, and pelvis"
    index = index_of(tmp_path, QUESTION, "Which fox is it?", answer, SENTENCE)

    assert index.find(f"Title. {QUESTION} Text.") == 0
    assert index.find(QUESTION.replace("really ", "")) is None
    assert index.find("Which fox is it?") is None
    assert index.find(answer) is None


@settings(max_examples=300)
@given(st.data())
def test_the_index_finds_what_a_plain_program_finds(tmp_path_factory, data):
    words = st.sampled_from(["a", "b", "c1", "é", "中"])
    texts = st.lists(words, max_size=40).map(" ".join)
    ngram = data.draw(st.integers(1, 14))
    strings = data.draw(st.lists(st.tuples(texts, st.sampled_from(["", "?"])).map("".join), min_size=1, max_size=3))
    text = data.draw(texts) + " " + data.draw(st.sampled_from(strings)) + " " + data.draw(texts)
    try:
        index = index_of(tmp_path_factory.mktemp("sets"), *strings, ngram=ngram)
    except LauncherError as error:
        assert "no text of" in str(error)
        assert not plain_search(strings, ngram, text)
    else:
        assert (index.find(text) is not None) == plain_search(strings, ngram, text)


@pytest.mark.slow
def test_real_abstracts_give_the_same_as_a_plain_program(tmp_path):
    texts = abstracts()[:120]
    strings = [" ".join(text.split()[start : start + 20]) for start, text in enumerate(texts[:10])]
    index = index_of(tmp_path, *strings, *(text.splitlines()[0] for text in texts[10:20]), "common words of the study")
    edited = [text.replace(" the ", " this ", 3) for text in texts]

    for text in (*texts, *edited):
        strings_of_index = [*strings, *(text.splitlines()[0] for text in texts[10:20])]
        assert (index.find(text) is not None) == plain_search(strings_of_index, 13, text)


def test_chinese_counts_by_characters(tmp_path):
    text = "慢性肾功能不全是指各种原因造成的慢性进行性肾实质损害"
    index = index_of(tmp_path, text)

    assert index.find(f"前言 {text[3:16]}。") == 0
    assert index.find(text[3:15]) is None


@pytest.mark.parametrize("ngram", [1, 13])
def test_nothing_is_cut_where_a_long_document_is_looked_at_in_stretches(tmp_path, monkeypatch, ngram):
    monkeypatch.setattr(overlap, "_STRETCH", 16)
    index = index_of(tmp_path, SENTENCE if ngram == 13 else "today", ngram=ngram)

    for before in range(40):
        assert index.find("word " * before + SENTENCE + " word" * 20) == 0
        assert index.find("word " * (before + 20)) is None


FORMS = {
    "set.json": json.dumps,
    "ids.json": lambda records: json.dumps({f"id{n}": record for n, record in enumerate(records)}),
    "lines.json": lambda records: "\n".join(map(json.dumps, records)),
    "set.jsonl": lambda records: "\n\n".join(map(json.dumps, records)) + "\r\n",
    "bom.jsonl": lambda records: "\ufeff" + "\n".join(map(json.dumps, records)),
}


@pytest.mark.parametrize("name", FORMS)
@pytest.mark.parametrize("suffix", ["", ".gz", ".zst"])
def test_all_strings_of_json_are_read_however_deep(tmp_path, name, suffix):
    records = [{"q": "one", "options": {"A": "two", "B": ["three"]}, "n": 5, "x": None}, {"q": "fo\u2028ur"}]
    path = write_source(tmp_path / f"{name}{suffix}", FORMS[name](records).encode())

    found, sha256 = read_records(path)

    assert [sorted(record) for record in found if record] == [["one", "three", "two"], ["fo\u2028ur"]]
    assert sha256 == hashlib.sha256(path.read_bytes()).hexdigest()


def test_rows_of_csv_are_read_without_a_heading(tmp_path):
    rows = [
        ["A question, with a comma", 'an "answer"', "C"],
        ["two\nlines", "", "A"],
        ["a\u2028question\x85of\x0cone", "B"],
    ]
    with (tmp_path / "set.csv").open("w", newline="") as file:
        csv.writer(file).writerows(rows)

    assert read_records(tmp_path / "set.csv")[0] == rows


@pytest.mark.parametrize(
    ("name", "content", "complaint"),
    [
        ("set.jsonl", b'{"a": "fine"}\n{"a": SECRET}\n', r"set\.jsonl:2: is not JSON: .*; correct the file"),
        ("set.csv", b"SECRET,\xff\n", r"set\.csv:1: byte 0xff is not UTF-8; save the file"),
        (
            "set.json.gz",
            gzip.compress(b'"SECRET"' * 99, mtime=0)[:-9],
            r"set\.json\.gz: the file is corrupt: .*; fetch it again",
        ),
        ("set.txt", b"SECRET", r"clean\.decontaminate\.files: `set\.txt` has no name of JSON or CSV; write"),
    ],
)
def test_an_evaluation_set_that_cannot_be_read_is_named_and_not_quoted(tmp_path, name, content, complaint):
    (tmp_path / name).write_bytes(content)

    with pytest.raises(LauncherError, match=complaint) as caught:
        read_records(tmp_path / name)

    assert "SECRET" not in str(caught.value)


def test_sets_without_text_that_could_be_found_are_refused(tmp_path):
    with pytest.raises(LauncherError, match=r"no text of 13 words or more is in set\.jsonl; name the files that hold"):
        index_of(tmp_path, "yes", "no", "maybe")


def test_each_dropped_document_counts_for_one_record(tmp_path):
    other = "an entirely different sentence that has more than enough words to be looked for in documents"
    first = write_set(tmp_path / "a.jsonl", [{"q": "short"}, {"q": SENTENCE}])
    second = write_set(tmp_path / "b.jsonl", [{"q": SENTENCE}, {"q": other}])
    index = build_index([first, second], 13)
    step = Decontaminator(index)

    texts = [SENTENCE, "clean", other, f"{other} {SENTENCE}", f"x {SENTENCE} {SENTENCE}"]
    left = [document.text for document in step([Document(text, "") for text in texts])]
    one, two = account(index, [step.found, {"1:2": 3}])

    assert left == ["clean"]
    assert (one.records, one.documents, one.found, one.found_most) == (2, 2, 1, {"2": 2})
    assert (two.records, two.documents, two.found, two.found_most) == (2, 5, 1, {"2": 5})
    assert describe_decontamination([one])[0].endswith(
        "a.jsonl: 2 documents dropped for words of 1 of its 2 records; 2 for record 2"
    )


def run(folder, **changes):
    context = make_context(folder, **changes)
    main(context)
    return open_corpus(folder / "corpora" / "corpus").manifest


def test_a_prepare_drops_what_overlaps_and_says_so(tmp_path, capsys):
    texts = abstracts()[:40]
    write_pile(tmp_path / "a.jsonl", texts[:20])
    write_pile(tmp_path / "b.jsonl", [*texts[20:], texts[0]])
    (tmp_path / "sets").mkdir()
    write_set(tmp_path / "sets" / "one.jsonl.gz", [{"context": text} for text in texts[:5]])
    write_set(tmp_path / "sets" / "two.jsonl", [{"context": "none"}, {"context": texts[30]}])
    clean = {"decontaminate": {"files": ["./sets/*.jsonl*", "sets/two.jsonl"]}}

    manifest = run(tmp_path, clean=clean)

    one, two = manifest.decontamination
    assert manifest.counts.dropped == {"contaminated": 7}
    assert sum(manifest.counts.documents.values()) == 34
    assert (one.path, one.records, one.documents, one.found) == (str(tmp_path / "sets" / "one.jsonl.gz"), 5, 6, 5)
    assert (two.documents, two.found_most) == (1, {"2": 1})
    assert "two.jsonl: 1 documents dropped for words of 1 of its 2 records; 1 for record 2" in capsys.readouterr().out


def test_another_evaluation_set_is_another_corpus(tmp_path):
    write_pile(tmp_path / "a.jsonl", abstracts()[:3])
    clean = {"decontaminate": {"files": ["./set.json"]}}
    fingerprints = set()
    for text in (SENTENCE, SENTENCE, f"{SENTENCE} again"):
        (tmp_path / "set.json").write_text(json.dumps([text]))
        fingerprints.add(corpus_file_list(make_context(tmp_path, clean=clean)).fingerprint)

    assert len(fingerprints) == 2


def test_evaluation_sets_that_are_not_there_are_named(tmp_path):
    write_pile(tmp_path / "a.jsonl", ["text"])

    with pytest.raises(
        LauncherError, match=r"clean\.decontaminate\.files\.1: `\./no/\*` matches no file .*; correct it"
    ):
        run(tmp_path, clean={"decontaminate": {"files": ["./a.jsonl", "./no/*"]}})


@pytest.mark.slow
def test_all_abstracts_of_pubmedqa_are_found_and_none_has_a_question_of_medqa():
    contexts = shared_data("qa/pubmedqa/ori_pqal.json")
    medqa = sorted(shared_data("qa/medqa").glob("US/*/*.jsonl"))
    mmlu = sorted(shared_data("qa/mmlu").glob("*/*.csv"))

    pubmedqa, exams = build_index([contexts], 13), build_index([*medqa, *mmlu], 13)

    assert all(pubmedqa.find(text) is not None for text in abstracts())
    assert not any(exams.find(text) is not None for text in abstracts())


@pytest.mark.slow
def test_clinical_notes_do_not_look_like_exams():
    sets = [*sorted(shared_data("qa/medqa").glob("US/*/*.jsonl")), shared_data("qa/medmcqa/dev.2000.jsonl")]
    with gzip.open(shared_data("clinical/mtsamples.visible.jsonl.gz"), "rt", encoding="utf-8") as file:
        notes = [json.loads(line)["text"] for line in file]
    index = build_index(sets, 13)

    assert not any(index.find(note) is not None for note in notes)
