"""Loading recipes: every trap of YAML, composition, and messages that say what to write."""

from pathlib import Path

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from launcher.errors import RecipeError
from launcher.load import load_recipes
from launcher.load import yaml_tree as nodes
from launcher.load.yaml_scalars import resolve
from tests.support.recipe_files import RECIPE, find_faults, load, summarise, write

GOLDEN = Path(__file__).parents[1] / "golden"


def test_a_recipe_loads_with_its_text_and_file(tmp_path: Path) -> None:
    path = write(tmp_path, RECIPE)

    (loaded,) = load_recipes(path)

    assert (loaded.path, loaded.text) == (path, RECIPE)
    assert loaded.recipe.name == "tiny"


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("true", True),
        ("false", False),
        ("no", "no"),
        ("on", "on"),
        ("True", "True"),
        ("~", None),
        ("null", None),
        ("", None),
        ("0", 0),
        ("-12", -12),
        ("1e-5", 1e-5),
        ("1E5", 1e5),
        (".5", 0.5),
        ("3.", 3.0),
        ("1_000", "1_000"),
        ("1.2.3", "1.2.3"),
        ("2026-01-31", "2026-01-31"),
        ("12h", "12h"),
        ("+", "+"),
        ("٣", "٣"),
    ],
)
def test_plain_scalars_mean_what_yaml_1_2_says(text: str, value: object) -> None:
    resolved, complaint = resolve(text)

    assert complaint is None
    assert (resolved, type(resolved)) == (value, type(value))


@pytest.mark.parametrize(
    ("text", "fix"),
    [
        ("010", "`10`"),
        ("0o10", "`8`"),
        ("0x1F", "`31`"),
        ("-0b11", "`-3`"),
        ("12:30:00", "`12h30min`"),
        ("1:30", "`12h30min`"),
        ("1" * 19, "quotes"),
        ("9" * 5000, "quotes"),
    ],
)
def test_ambiguous_numbers_are_refused_with_the_fix(text: str, fix: str) -> None:
    _, complaint = resolve(text)

    assert complaint is not None
    assert fix in complaint


def test_yes_and_no_are_explained_where_a_boolean_belongs(tmp_path: Path) -> None:
    text = RECIPE.replace("org/model}", "org/model, compile: no, trust_remote_code: On}")

    first, second = find_faults(tmp_path, text)

    assert summarise([first, second]) == [
        "recipe.yaml:3 wrong-type model.compile",
        "recipe.yaml:3 wrong-type model.trust_remote_code",
    ]
    assert first.message.endswith("write `false`")
    assert second.message.endswith("write `true`")


def test_a_word_like_no_is_text_where_text_belongs(tmp_path: Path) -> None:
    assert load(tmp_path, RECIPE.replace("tiny", "no")).name == "no"


def test_a_number_in_quotes_is_written_without(tmp_path: Path) -> None:
    text = RECIPE.replace("optim:\n", 'checkpoint: {keep: "3"}\noptim:\n', 1)

    (fault,) = find_faults(tmp_path, text)

    assert fault.message.endswith("`3` is not valid here; write `3` without quotes")


def test_a_key_given_twice_names_both_lines(tmp_path: Path) -> None:
    text = RECIPE.replace("  lr: 1e-5\n", "  lr: 1e-5\n  eps: 1e-8\n  lr: 2e-5\n")

    (fault,) = find_faults(tmp_path, text)

    assert summarise([fault]) == ["recipe.yaml:11 syntax optim.lr"]
    assert "line 9" in fault.message


def test_anchors_aliases_and_merge_keys_work(tmp_path: Path) -> None:
    text = RECIPE.replace("optim:\n", "optim: &adam\n  eps: 1e-7\n").replace(
        "  optim: {lr: 1e-3}\n", "  optim:\n    <<: *adam\n    lr: 5e-4\n"
    )

    recipe = load(tmp_path, text, rehearse=True)

    assert (recipe.optim.lr, recipe.optim.eps) == (5e-4, 1e-7)


def test_a_fault_behind_a_merge_key_has_the_line_that_holds_it(tmp_path: Path) -> None:
    text = RECIPE.replace("optim:\n", "optim: &adam\n  epps: 1e-7\n").replace("{lr: 1e-3}", "{<<: *adam}")

    assert summarise(find_faults(tmp_path, text)) == ["recipe.yaml:9 unknown-key optim.epps"]


def test_a_billion_laughs_are_refused(tmp_path: Path) -> None:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]" for i in range(1, 12)]

    (fault,) = find_faults(tmp_path, "\n".join(lines))

    assert summarise([fault]) == ["recipe.yaml:5 syntax"]
    assert "more than 100000 values" in fault.message


# Of PyYAML's two parsers one has a limit of its own, in some versions: 1,000 levels in libyaml as of PyYAML 6.0.4.
@pytest.mark.parametrize("parser", ["CSafeLoader", "SafeLoader"])
@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("a: " + "[" * 100_000, 1),
        ("a: " + "{a: " * 3_000, 1),
        ("a: " + "[" * 70 + "]" * 70, 1),
        ("- " * 2_000 + "x", 1),
        ("\n".join(f"{' ' * level}a:" for level in range(1_500)), 66),
    ],
)
def test_endless_nesting_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, parser: str, text: str, line: int
) -> None:
    monkeypatch.setattr(nodes, "_Loader", getattr(yaml, parser, yaml.SafeLoader))

    (fault,) = find_faults(tmp_path, text)

    assert summarise([fault]) == [f"recipe.yaml:{line} syntax"]
    assert "more than 64 levels deep" in fault.message


def test_a_syntax_error_before_endless_nesting_is_told(tmp_path: Path) -> None:
    fault = find_faults(tmp_path, "a: b: c\nd: " + "[" * 2_000)[0]

    assert fault.line == 1
    assert "`: ` inside a value" in fault.message


@pytest.mark.parametrize(
    ("text", "line", "said"),
    [
        ("kind: cpt\n\tname: x\n", 2, "tab"),
        ("a: {b: 1\n", 1, "`{` is not closed"),
        ("a: [1, 2\nb: 3\n", 1, "`[` is not closed"),
        ("name: 'x\n\n\n", 1, "quoted text is not closed"),
        ("a: b: c\n", 1, "`: ` inside a value"),
        ("a: @x\n", 1, "a character that YAML reserves"),
        ("a: 1\n  b: 2\n", 2, "a wrong indent"),
        ("a:\n  b: 1\n c: 2\n", 3, "not indented like the lines above it"),
        ("a: 1\nword\n", 2, "a `:` is missing after the key"),
        ("a: *x\n", 1, "no `&x` before it"),
        ("a: !!python/name:os.system x\n", 1, "tag:yaml.org,2002:python/name:os.system"),
        ("[a, b]: 1\n", 1, "write `key: value`"),
        ("<<: 3\n", 1, "write `<<: *name`"),
        ("name: a\x07b\n", 1, "'\\x07'"),
    ],
)
def test_what_is_no_yaml_is_explained_at_its_line(tmp_path: Path, text: str, line: int, said: str) -> None:
    fault = find_faults(tmp_path, text)[0]

    assert (fault.line, fault.code) == (line, "syntax")
    assert said in fault.message


@pytest.mark.parametrize(
    ("text", "summary"),
    [
        ("- kind: cpt\n", "recipe.yaml:1 wrong-type"),
        ("cpt\n", "recipe.yaml:1 wrong-type"),
        ("", "recipe.yaml structure"),
        ("# only a comment\n---\n", "recipe.yaml structure"),
        ("name: x\n", "recipe.yaml:1 missing-key kind"),
        ("kind: ctp\n", "recipe.yaml:1 unknown-name kind"),
    ],
)
def test_what_is_no_recipe_is_refused_at_its_line(tmp_path: Path, text: str, summary: str) -> None:
    assert summarise(find_faults(tmp_path, text)) == [summary]


def test_bytes_that_are_not_utf_8_have_a_line(tmp_path: Path) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_bytes(b"kind: cpt\nname: caf\xe9\n")

    with pytest.raises(RecipeError, match=r"recipe\.yaml:2: byte 0xe9 is not UTF-8; save the file as UTF-8"):
        load_recipes(path)


def test_a_byte_order_mark_and_windows_line_ends_are_no_fault(tmp_path: Path) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_bytes(b"\xef\xbb\xbf" + RECIPE.replace("\n", "\r\n").encode())

    assert load_recipes(path)[0].recipe.name == "tiny"


@pytest.mark.parametrize(("name", "said"), [("missing.yaml", "check the path"), (".", "is a folder; name a file in")])
def test_a_file_that_cannot_be_read_is_a_fault(tmp_path: Path, name: str, said: str) -> None:
    with pytest.raises(RecipeError, match=said):
        load_recipes(tmp_path / name)


def test_every_document_of_a_file_is_a_recipe_with_its_own_text(tmp_path: Path) -> None:
    second = RECIPE.replace("tiny", "small")

    loaded = load_recipes(write(tmp_path, f"# first\n{RECIPE}---\n# second\n{second}---\n"))

    assert [item.recipe.name for item in loaded] == ["tiny", "small"]
    assert [item.text for item in loaded] == [f"# first\n{RECIPE}", f"---\n# second\n{second}"]


def test_faults_of_all_documents_are_found_although_the_last_is_no_yaml(tmp_path: Path) -> None:
    text = RECIPE.replace("1e-5", "-1") + "---\n" + RECIPE.replace("10 steps", "10") + "---\na: [1\n"

    assert summarise(find_faults(tmp_path, text)) == [
        "recipe.yaml:9 out-of-range optim.lr",
        "recipe.yaml:27 unit-missing schedule.length",
        "recipe.yaml:33 syntax",
    ]


def test_a_changed_file_is_read_again(tmp_path: Path) -> None:
    before = load(tmp_path, RECIPE)

    after = load(tmp_path, RECIPE.replace("tiny", "changed"))

    assert (before.name, after.name) == ("tiny", "changed")


def test_a_broken_recipe_is_explained() -> None:
    with pytest.raises(RecipeError) as caught:
        load_recipes(GOLDEN / "broken_recipe.yaml")

    said = str(caught.value).replace(f"{GOLDEN}/", "") + "\n"
    assert said == (GOLDEN / "broken_recipe.txt").read_text(encoding="utf-8")


WORDS = ("kind", "cpt", "name", "optim", ": ", ":", "\n", "\n  ", "- ", "{", "}", "[", "]", ",", "'", '"', "&a ", "*a")
RARE_WORDS = ("<<: ", "!!str ", "---\n", "...", "# ", "|\n", ">-\n", "? ", "\t", "010", ".inf", "\\ud800", "%", "1e999")
YAML_PIECES = st.lists(st.sampled_from(WORDS + RARE_WORDS) | st.text(max_size=4)).map("".join)
OVERRIDES = st.text(max_size=30) | st.builds("{}={}".format, st.sampled_from(["name", "a.b", "optim.lr"]), st.text())


@given(text=st.text(max_size=200) | YAML_PIECES | YAML_PIECES.map(lambda pieces: f"kind: cpt\nmodel: {pieces}"))
def test_any_text_loads_or_is_explained(tmp_path_factory: pytest.TempPathFactory, text: str) -> None:
    path = tmp_path_factory.getbasetemp() / "fuzz.yaml"
    path.write_bytes(text.encode("utf-8", "surrogatepass"))

    try:
        load_recipes(path)
    except RecipeError as error:
        assert error.faults


@settings(max_examples=200)
@given(override=OVERRIDES)
def test_any_override_is_taken_or_explained(tmp_path_factory: pytest.TempPathFactory, override: str) -> None:
    path = write(tmp_path_factory.getbasetemp(), RECIPE, "override.yaml")

    try:
        load_recipes(path, [override])
    except RecipeError as error:
        assert error.faults
