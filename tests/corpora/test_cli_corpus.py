"""`launcher corpus` as typed: what it prints, how it exits, and what it keeps to itself."""

import json
import shutil
import stat
import sys

import pexpect
import pytest

from jobs.kinds.prepare import main
from launcher.artifacts.corpus_manifest import MANIFEST, SourceFile, read_manifest
from launcher.corpora.find import open_published
from tests.support.command_line import launcher
from tests.support.prepare_runs import abstracts, files_of, make_context, write_pile
from tests.support.waiting import PATIENCE

PLANTED = "Zaphodia Beeblebrox"


def prepare(folder, **changes):
    context = make_context(folder, validation=0.05, **changes)
    main(context)
    return folder / "corpora" / "corpus"


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    """A corpus of the shipped abstracts, 50 of them twice and one too short."""
    folder = tmp_path_factory.mktemp("published")
    write_pile(folder / "one.jsonl.gz", abstracts()[:300])
    write_pile(folder / "two.jsonl.zst", [*abstracts()[250:], "short"])
    return prepare(folder, clean={"min_characters": 20, "exact_duplicates": "drop"})


@pytest.fixture
def corpus(published, tmp_path):
    """A copy of it, to be damaged."""
    return shutil.copytree(published, tmp_path / "copy")


@pytest.fixture(scope="module")
def credentialed(tmp_path_factory):
    folder = tmp_path_factory.mktemp("credentialed")
    write_pile(folder / "notes.jsonl", [f"Patient {PLANTED} came on day {day}." for day in range(30)])
    return prepare(folder, data_use="credentialed")


def change_manifest(folder, **changes):
    (folder / MANIFEST).write_text(read_manifest(folder).model_copy(update=changes).model_dump_json())


def rows(out):
    """The cells of each line, by its first one."""
    return {line.split()[0]: line.split()[1:] for line in out.splitlines() if line.strip()}


def test_show_tells_what_a_corpus_is_made_of(published):
    out, _ = launcher("corpus", "show", str(published), "--sequence-length", "512")

    counts, told = read_manifest(published).counts, rows(out)
    assert told["corpus"] == ["open"]
    for split in ("train", "validation"):
        assert told[split][:2] == [f"{counts.documents[split]:,}", f"{counts.tokens[split]:,}"]
    assert told["read"] == ["551", "100.0%"]
    assert told["kept"] == ["500", "90.7%"]
    assert "dropped: duplicate       50           9.1%" in out
    assert "dropped: too_short        1           0.2%" in out
    assert told["unreadable"] == ["0", "0.0%"]
    assert told["MIT"] == ["500", "100.0%"]
    assert told["pile"][:5] == ["2", "297", "kB", "500", "517,804"]
    assert "clean       min_characters: 20\n              exact_duplicates: drop\n" in out
    assert told["packed"][0] == f"{-(-counts.tokens['train'] // 512):,}"


def test_several_corpora_are_shown_and_verified_in_one_call(published, corpus, tmp_path):
    other = shutil.copytree(corpus, tmp_path / "other")
    (other / "tokenizer.json").unlink()

    shown, _ = launcher("corpus", "show", str(published), str(corpus))
    both = json.loads(launcher("corpus", "show", str(published), str(corpus), "--json")[0])["corpora"]
    said, _ = launcher("corpus", "verify", str(other), str(corpus), code=1)
    reports = json.loads(launcher("corpus", "verify", str(other), str(corpus), "--json", code=1)[0])["corpora"]
    launcher("corpus", "verify", str(published), str(corpus))

    assert shown.count("517,804") == 2
    assert [one["folder"] for one in both] == [str(published), str(corpus)]
    assert f"{other}: " in said and f"{corpus}: " in said and "as the manifest says" in said
    assert [bool(one["flaws"]) for one in reports] == [True, False]


def test_all_corpora_that_are_not_there_are_named_before_one_is_read(published, tmp_path):
    missing = [str(tmp_path / name) for name in ("one", "two")]

    said, errors = launcher("corpus", "verify", str(published), *missing, code=2)

    assert said == "" and all(name in errors for name in missing)


def test_show_as_json_holds_the_manifest_and_what_was_measured(published):
    out, _ = launcher("corpus", "show", str(published), "--sequence-length", "512", "--json")

    [said] = json.loads(out)["corpora"]
    assert said["manifest"] == json.loads((published / MANIFEST).read_text())
    assert said["bytes"] == sum(open_published(published).manifest.sizes().values())
    train = said["document_tokens"]["train"]
    assert 0 < train["median"] < train["percentile_90"] < train["longest"]
    assert train["sequences"]["packed"]["lost"] == 0 < train["sequences"]["truncate"]["lost"] < 1


@pytest.mark.parametrize("width", [80, 120])
def test_show_and_diff_fit_into_the_terminal(corpus, width):
    licence = "courtesy of the US National Library of Medicine; abstracts are under the copyright of their publishers"
    facts = {"format": "medline", "options": {}, "license": licence, "size": 19 * 10**6, "sha256": "0" * 64}
    facts |= {"documents": {"train": 20_000, "validation": 20}, "tokens": {"train": 7_000_000, "validation": 7_000}}
    folders = [f"/lustre/groups/biomed/data/a-folder-with-a-rather-long-name/baseline-{n}" for n in range(14)]
    sources = [SourceFile(path=f"{folder}/{n}.xml.gz", records=30_000, **facts) for folder in folders for n in range(9)]
    dropped = {"near_duplicate": 11_234_567, "no_abstract": 5}
    tally = read_manifest(corpus).counts.model_copy(
        update={
            "records": 39_600_000,
            "dropped": dropped,
            "licenses": {licence: 400, **{f"CC {n}": n for n in range(20)}},
        }
    )
    change_manifest(corpus, sources=tuple(sources), counts=tally)

    out, _ = launcher("corpus", "show", str(corpus), "--sequence-length", "2048", environ={"COLUMNS": str(width)})

    tables = out[out.index("documents ") :].splitlines()[1:]
    assert max(map(len, tables)) <= width
    assert "near_duplicate  11,234,567" in out
    assert "others      36  684 MB    720,720  252,252,000  4 more" in out
    assert "11 others" in out
    assert "..." in out


def test_what_was_not_counted_by_file_is_not_told_as_nothing(corpus):
    sources = [file.model_copy(update={"documents": {}, "tokens": {}}) for file in read_manifest(corpus).sources]
    change_manifest(corpus, sources=tuple(sources))

    out, _ = launcher("corpus", "show", str(corpus))

    assert rows(out)["pile"][:3] == ["2", "297", "kB"]
    assert not {"0", "500"} & set(rows(out)["pile"])


def test_licences_and_names_are_printed_as_they_stand(corpus):
    licence = "[see LICENSE] :train: [/b]"
    counts = read_manifest(corpus).counts.model_copy(update={"licenses": {licence: 5}})
    change_manifest(corpus, counts=counts, corpus="[red]")

    out, _ = launcher("corpus", "show", str(corpus))

    assert licence in out
    assert out.startswith("[red] ")


def test_show_tells_what_cleaning_found(tmp_path):
    questions = [{"question": " ".join(text.split()[:20]), "answer": "A"} for text in abstracts()[:2]]
    (tmp_path / "eval").mkdir()
    write_pile(tmp_path / "eval" / "medqa.jsonl", questions)
    write_pile(tmp_path / "a.jsonl", [*abstracts()[:40], *[f"{n}: write to john.doe@hospital.org" for n in range(7)]])
    folder = prepare(tmp_path, clean={"decontaminate": {"files": ["./eval/*.jsonl"]}, "phi_check": True})

    out, _ = launcher("corpus", "show", str(folder))

    told = rows(out)
    assert "dropped: contaminated        2           4.3%" in out
    assert told["medqa.jsonl"] == ["2", "2", "2"]
    assert told["looks"] == ["like", "patients'", "data", "found"]
    assert told["email"] == ["7"]


def test_show_goes_on_without_the_lengths_when_an_index_is_damaged(corpus):
    (corpus / "train" / "00000.ds.index").write_bytes(b"")

    out, err = launcher("corpus", "show", str(corpus), "--sequence-length", "512")

    assert "median" not in out
    assert "dropped: duplicate" in out
    assert "00000.ds.index: has 0 bytes" in err
    assert "`launcher corpus verify` shows what is wrong" in err


def test_a_corpus_is_found_by_its_name(published, tmp_path):
    profile = tmp_path / "cluster.yaml"
    profile.write_text(f"name: t\nroots: {{runs: ., corpora: {published.parent}, models: .}}\n")

    assert launcher("corpus", "verify", "corpus", "--cluster", str(profile), "--quick")[0].startswith(str(published))
    assert "did you mean `corpus`?" in launcher("corpus", "show", "corpse", "--cluster", str(profile), code=2)[1]


def test_a_folder_without_a_manifest_is_refused(tmp_path):
    for command in (["show"], ["verify"], ["sample"], ["diff", str(tmp_path)]):
        _, err = launcher("corpus", *command, str(tmp_path), code=2)
        assert err.count("\n") == 1
        assert "is not a prepared corpus" in err


def test_verify_is_content_with_what_prepare_made(published):
    out, err = launcher("corpus", "verify", str(published))

    assert out.startswith(f"{published}: 5 files, ")
    assert out.endswith(", as the manifest says\n")
    assert err == ""


def test_verify_names_every_flaw_and_exits_1(corpus):
    (corpus / "tokenizer.json").unlink()
    (corpus / "validation" / "00000.ds.index").unlink()
    shard = corpus / "train" / "00000.ds"
    shard.write_bytes(b"\xff\xff" + shard.read_bytes()[2:])

    out, _ = launcher("corpus", "verify", str(corpus), code=1)

    lines = out.splitlines()
    assert lines[0] == f"{corpus}/tokenizer.json: is missing"
    assert lines[1] == f"{corpus}/validation/00000.ds.index: is missing"
    assert lines[2].startswith(f"{shard}: has another SHA-256 (")
    assert lines[3] == f"{shard}: holds id 65,535; the vocabulary ends at 511"
    assert lines[4].startswith(f"{corpus}: 4 flaws; ")
    assert len(lines) == 5


def test_a_quick_verify_says_that_it_has_not_read_the_contents(corpus):
    shard = corpus / "train" / "00000.ds"
    shard.write_bytes(b"\xff\xff" + shard.read_bytes()[2:])

    assert "contents were not read (`--quick`)" in launcher("corpus", "verify", str(corpus), "--quick")[0]
    shard.write_bytes(shard.read_bytes()[:-1])
    assert "bytes, not" in launcher("corpus", "verify", str(corpus), "--quick", code=1)[0]


def test_verify_as_json_lists_the_flaws(corpus):
    [sound] = json.loads(launcher("corpus", "verify", str(corpus), "--json")[0])["corpora"]
    assert sound["flaws"] == []
    (corpus / "train" / "00000.ds").unlink()

    [said] = json.loads(launcher("corpus", "verify", str(corpus), "--json", code=1)[0])["corpora"]

    assert said["flaws"] == [{"file": "train/00000.ds", "what": "is missing"}]
    assert said["folder"] == str(corpus)


def test_verify_shows_on_a_terminal_how_far_it_is(published):
    argv = ["-m", "launcher", "corpus", "verify", str(published)]
    terminal = pexpect.spawn(
        sys.executable, argv, use_poll=True, encoding="utf-8", timeout=PATIENCE, dimensions=(24, 300)
    )

    terminal.expect("/1.0 MB")
    terminal.expect("as the manifest says")
    terminal.expect(pexpect.EOF)
    terminal.close()

    assert terminal.exitstatus == 0


def test_samples_are_text_of_the_sources(published):
    out, _ = launcher("corpus", "sample", str(published), "-n", "4", "--split", "validation", "--characters", "100000")

    texts = [block.partition("\n")[2] for block in out.strip().split("\n\nvalidation ")]
    assert len(texts) == 4
    assert set(texts) <= {text.strip() for text in abstracts()}


def test_samples_as_json_are_cut_and_say_so(published):
    said = json.loads(launcher("corpus", "sample", str(published), "-n", "2", "--characters", "40", "--json")[0])

    assert said["split"] == "train"
    assert [len(one["text"]) for one in said["documents"]] == [40, 40]
    assert all(any(text.startswith(one["text"]) for text in abstracts()) for one in said["documents"])
    assert not any(one["is_whole"] for one in said["documents"])


def test_what_would_steer_a_terminal_is_not_printed(tmp_path):
    write_pile(tmp_path / "a.jsonl", ["red \x1b[31m\x9b31m and\r\a\n\ttabbed"] * 20)
    folder = str(prepare(tmp_path))

    out, _ = launcher("corpus", "sample", folder, "-n", "1")
    as_json = json.loads(launcher("corpus", "sample", folder, "-n", "1", "--json")[0])

    shown = "\N{REPLACEMENT CHARACTER}"
    assert f"red {shown}[31m{shown}31m and{shown}{shown}\n\ttabbed" in out
    assert as_json["documents"][0]["text"] == "red \x1b[31m\x9b31m and\r\a\n\ttabbed"


def test_credentialed_text_is_printed_to_those_who_may_see_it_alone(credentialed):
    out, err = launcher("corpus", "sample", str(credentialed), code=2)

    assert out == ""
    assert err.count("\n") == 1
    assert "`--i-have-credentials`" in err
    assert PLANTED in launcher("corpus", "sample", str(credentialed), "--i-have-credentials")[0]
    assert PLANTED in launcher("corpus", "sample", str(credentialed), "--i-have-credentials", "--json")[0]


def test_credentialed_text_does_not_get_into_the_log_of_a_job(credentialed):
    argv = ["corpus", "sample", str(credentialed), "--i-have-credentials"]
    terminal = pexpect.spawn(
        "/usr/bin/env",
        ["SLURM_JOB_ID=7", sys.executable, "-m", "launcher", *argv],
        use_poll=True,
        encoding="utf-8",
        timeout=PATIENCE,
    )

    out, err = launcher(*argv, code=2, environ={"SLURM_JOB_ID": "7"})

    assert (out, err) == ("", "corpus sample: credentialed text would end in a job's log; run it in a terminal\n")
    terminal.expect(PLANTED)
    terminal.expect(pexpect.EOF)


def test_no_other_command_tells_anything_of_credentialed_text(credentialed, published, tmp_path):
    before = files_of(credentialed.parents[1])
    damaged = shutil.copytree(credentialed, tmp_path / "damaged")
    shard = damaged / "train" / "00000.ds"
    shard.write_bytes(shard.read_bytes()[:-2] + b"\xff\xff")
    said = [
        *launcher("corpus", "show", str(credentialed), "--sequence-length", "16"),
        *launcher("corpus", "show", str(credentialed), "--json"),
        *launcher("corpus", "verify", str(credentialed)),
        *launcher("corpus", "verify", str(damaged), code=1),
        *launcher("corpus", "verify", str(damaged), "--json", code=1),
        *launcher("corpus", "diff", str(credentialed), str(published), code=1),
        *launcher("corpus", "diff", str(credentialed), str(published), "--json", code=1),
        *launcher("corpus", "sample", str(credentialed), code=2),
        *launcher("corpus", "sample", str(credentialed), "--json", code=2),
    ]
    shard.unlink()
    said += launcher("corpus", "sample", str(damaged), "--i-have-credentials", code=2)

    assert not any(word in "".join(said) for word in PLANTED.split())
    assert files_of(credentialed.parents[1]) == before


def test_a_credentialed_corpus_that_others_may_enter_is_a_flaw(credentialed, tmp_path):
    copy = shutil.copytree(credentialed, tmp_path / "copy")
    assert stat.S_IMODE(copy.stat().st_mode) == 0o700
    launcher("corpus", "verify", str(copy))
    copy.chmod(0o755)

    out, _ = launcher("corpus", "verify", str(copy), "--quick", code=1)

    assert out.splitlines() == [
        f"{copy}: is credentialed, and others may enter it (mode 0755); `chmod 700 {copy}`",
        f"{copy}: 1 flaw",
    ]


def test_diff_finds_none_between_a_corpus_and_its_copy(published, corpus):
    change_manifest(corpus, code="9.9 fed")

    out, _ = launcher("corpus", "diff", str(published), str(corpus))
    said = json.loads(launcher("corpus", "diff", str(published), str(corpus), "--json")[0])

    assert "equal: sources, settings, tokenizer, counts and shards" in out
    assert "makes no difference\n  code: 0.1.0 hash -> 9.9 fed" in out
    assert said["different"] is False
    assert [one["matters"] for one in said["differences"]] == [False]


def test_diff_tells_by_topic_what_another_recipe_changed(published, tmp_path):
    shutil.copy(published.parents[1] / "one.jsonl.gz", tmp_path)
    write_pile(tmp_path / "three.jsonl", ["something else"] * 12)
    other = prepare(tmp_path, clean={"exact_duplicates": "drop"}, data_use="credentialed")

    out, _ = launcher("corpus", "diff", str(published), str(other), code=1)
    said = json.loads(launcher("corpus", "diff", str(published), str(other), "--json", code=1)[0])

    assert f"only in A  {published.parents[1]}/two.jsonl.zst" in out
    assert f"only in B  {tmp_path}/three.jsonl" in out
    assert "data_use: open -> credentialed" in out
    assert "clean.min_characters: 20 -> 1" in out
    assert "dropped.duplicate: 50 -> 11 (-39)" in out
    assert "train: 1 -> 1, 0 of them equal" in out
    assert f"source: {published.parents[1]}/one.jsonl.gz -> {tmp_path}/one.jsonl.gz" in out
    assert said["different"] is True
    assert {one["topic"] for one in said["differences"]} == {"sources", "settings", "counts", "shards", "origin"}


def test_diff_shows_a_changed_source_and_sums_up_what_is_too_much(published, corpus):
    changed = [file.model_copy(update={"sha256": "f" * 64}) for file in read_manifest(corpus).sources]
    extra = [changed[0].model_copy(update={"path": f"/data/{n}.jsonl", "size": n}) for n in range(20)]
    change_manifest(corpus, sources=(changed[0], *extra, *changed[1:]))

    out, _ = launcher("corpus", "diff", str(published), str(corpus), code=1)

    sha256 = read_manifest(published).sources[0].sha256[:12]
    assert f"changed    {changed[0].path}: sha256 {sha256} -> ffffffffffff\n" in out
    assert "  and 12 more (`--json` has all)" in out
