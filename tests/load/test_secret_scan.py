"""Secrets in recipes and profiles: found wherever they stand, and never repeated."""

from pathlib import Path

import pytest

from tests.support.recipe_files import PROFILE, RECIPE, TOKEN, faults, profile_faults, write

HEX = "0123456789abcdef" * 2 + "01234567"


@pytest.mark.parametrize(
    "secret",
    [
        TOKEN,
        "sk-" + "a1B2" * 8,
        "ghp_" + "a1B2" * 9,
        "github_pat_" + "a1B2" * 9,
        "local-" + HEX,
        "wandb_v1_" + "a1B2" * 9,
        "AKIA" + "ABCD2345" * 2,
        "glpat-" + "a1B2" * 5,
        "xapp-" + "1-A02-" * 5,
        "AIza" + "Sy1_-" * 7,
        "ya29." + "a0-_" * 8,
        "npm_" + "a1B2" * 9,
        "pypi-AgE" + "a1B2" * 20,
        "eyJ" + "hbGciOi" * 2 + ".eyJ" + "zdWIiOi" * 2 + "." + "c2ln_-" * 3,
        "https://site.webhook.office.com/webhookb2/a1B2@c3",
        "https://api.telegram.org/bot123456:a1B2_-",
    ],
)
@pytest.mark.parametrize("place", ["description: {}", "tracking: {{tags: [a, {}]}}", "seed: 1  # mine is {}", "# {}"])
def test_a_token_is_found_in_values_and_comments_and_not_repeated(tmp_path: Path, secret: str, place: str) -> None:
    (said,) = faults(tmp_path, RECIPE + place.format(secret) + "\n")

    assert said.startswith("recipe.yaml:16: ")
    shown = secret.removeprefix("https://")[:4]
    assert f"`{shown}…` looks like a secret; put it into the environment or the profile's `secrets_file`" in said
    assert secret not in said


@pytest.mark.parametrize("key", ["WANDB_API_KEY", "api-key", "aws_secret_access_key", "hf_token", "password"])
@pytest.mark.parametrize("value", [HEX, HEX[:32].upper(), "wJalrXUtnFEMIxK7MDENGxbPxRfiCYEXAMPLEKEY"])
def test_an_opaque_value_is_a_secret_under_a_name_that_says_so(tmp_path: Path, key: str, value: str) -> None:
    said = "\n".join(faults(tmp_path, f"{RECIPE}# {key}: {value}\n"))

    assert "recipe.yaml:16: " in said
    assert value not in said


@pytest.mark.parametrize(
    "path", ["abcdefghijklmnopqrstuvwx12", "5f8a9c1e2b3d4f6a7/" + "a1B2" * 11], ids=["Mattermost", "Rocket.Chat"]
)
@pytest.mark.parametrize("place", ["description: {}", "# {}"])
def test_the_address_of_a_webhook_is_found_on_any_host(tmp_path: Path, path: str, place: str) -> None:
    (said,) = faults(tmp_path, RECIPE + place.format(f"https://chat.example.org/hooks/{path}") + "\n")

    assert f"`{path[:4]}…` looks like a secret" in said
    assert path not in said


@pytest.mark.parametrize("name", ["PGPASSWORD", "smtp_passwd", "password", "SSH_PASSPHRASE"])
@pytest.mark.parametrize("value", ["hunter", "hunter22", "'12345678'"])
def test_under_the_name_of_a_password_a_short_value_is_a_secret(tmp_path: Path, name: str, value: str) -> None:
    said = profile_faults(tmp_path, f"{PROFILE}environment:\n  {name}: {value}\n")

    assert [line.partition(" looks")[0] for line in said] == [
        f"profile.yaml:4: environment.{name}: `{value.strip(chr(39))[:4]}…`"
    ]


@pytest.mark.parametrize(
    ("comment", "secret"),
    [
        (f"# my key wandb: {HEX}", HEX),
        (f"# the api key that W&B gave me is {HEX}", HEX),
        (f"# secret of azure {HEX[:32].upper()}", HEX[:32].upper()),
        ("# password: hunter22", "hunter22"),
    ],
)
def test_a_comment_may_say_it_in_other_words(tmp_path: Path, comment: str, secret: str) -> None:
    (said,) = faults(tmp_path, f"{RECIPE}{comment}\n")

    assert f"recipe.yaml:16: `{secret[:4]}…` looks like a secret" in said


@pytest.mark.parametrize(
    "line",
    [
        f"description: commit {HEX}",
        f"# keys of the index at commit {HEX}",
        f"# 63 B tokens of the corpus {HEX}",
        "# password: see the vault",
        "# PGPASSWORD: ${PGPASSWORD}",
        "# password: null",
        "# more about webhooks: https://example.org/hooks/incoming",
        f"description: {HEX}",
        "description: task-aware-pretraining-of-a-large-model",
        "secrets: [WANDB_API_KEY, A_VERY_LONG_NAME_OF_A_SECRET_THAT_IS_ONLY_A_NAME_1234567890]",
        "# tokenizer: 0123456789abcdef0123456789abcdef",
        "# eyJ is how base64 of a mapping begins: eyJhIjoxfQ.x",
        "# the office: https://www.office.com/launch, https://telegram.org/blog",
        "# see https://example.org/a:b and user@example.org",
    ],
)
def test_ordinary_text_is_no_secret(tmp_path: Path, line: str) -> None:
    said = faults(tmp_path, f"{RECIPE}{line}\nno_such_key: 1\n")

    assert said == [line for line in said if "no_such_key" in line]


def test_a_secret_hidden_in_escapes_or_a_base_is_found(tmp_path: Path) -> None:
    write(tmp_path, f'{RECIPE}description: "{TOKEN[:5]}\\\n  {TOKEN[5:]}"\n', "base.yaml")

    (said,) = faults(tmp_path, "base: base.yaml\n")

    assert said.startswith("base.yaml:16: description: `hf_a…` looks like a secret")


def test_other_faults_of_a_file_do_not_repeat_its_secret(tmp_path: Path) -> None:
    said = faults(tmp_path, RECIPE.replace("10 steps", TOKEN).replace("1h", f"!{TOKEN} x") + f"{TOKEN}: 1\n")

    assert len(said) > 3
    assert TOKEN not in "".join(said)


def test_a_secret_on_the_command_line_is_refused(tmp_path: Path) -> None:
    said = faults(tmp_path, RECIPE, [f"tracking.project={TOKEN}", f"tracking.api_key={HEX}", f"name.{TOKEN}=x"])

    assert any(line.startswith("--set tracking.project: `hf_a…` looks like a secret") for line in said)
    assert any(line.startswith("--set tracking.api_key: `0123…` looks like a secret") for line in said)
    assert TOKEN not in "".join(said)
    assert HEX not in "".join(said)


def test_a_secret_in_a_profile_is_refused(tmp_path: Path) -> None:
    said = profile_faults(
        tmp_path, f"{PROFILE}environment:\n  http_proxy: http://me:hunter2@proxy:3128\n  HF_TOKEN: {TOKEN}\n"
    )

    assert [line.partition(" looks")[0] for line in said] == [
        "profile.yaml:4: environment.http_proxy: `me:h…`",
        "profile.yaml:5: environment.HF_TOKEN: `hf_a…`",
    ]
    assert "hunter2" not in "".join(said)
