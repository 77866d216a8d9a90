"""Cluster profiles: found by name or file, checked, and made independent of the working directory."""

from pathlib import Path

import pytest

from launcher.errors import LauncherError
from launcher.load import load_cluster
from launcher.paths import expand
from tests.loading import PROFILE, profile, profile_faults, write


@pytest.fixture(autouse=True)
def _empty_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.delenv("LAUNCHER_CLUSTER", raising=False)
    monkeypatch.chdir(tmp_path)


def test_a_profile_is_found_by_file_and_by_name(tmp_path: Path) -> None:
    write(tmp_path, PROFILE.replace("site", "mine"), "recipes/clusters/mine.yaml")
    write(tmp_path, PROFILE.replace("site", "ours"), "home/.config/launcher/clusters/ours.yaml")

    names = [load_cluster(name).name for name in ("recipes/clusters/mine.yaml", "mine", "ours", "a100")]

    assert names == ["mine", "mine", "ours", "a100"]


def test_without_a_name_the_environment_wins_over_this_folder_over_the_home(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path, PROFILE.replace("site", "home"), "home/.config/launcher/cluster.yaml")
    at_home = load_cluster(None).name
    write(tmp_path, PROFILE.replace("site", "here"), "cluster.yaml")
    here = load_cluster(None).name
    monkeypatch.setenv("LAUNCHER_CLUSTER", str(write(tmp_path, PROFILE, "elsewhere.yaml")))

    assert (at_home, here, load_cluster(None).name) == ("home", "here", "site")


@pytest.mark.parametrize("name", [None, "nowhere", "no/such.yaml"])
def test_a_missing_profile_says_where_it_was_looked_for_and_how_to_make_one(name: str | None) -> None:
    with pytest.raises(LauncherError, match=r"no cluster profile.*looked for .*\.yaml.*launcher init.*devcluster up"):
        load_cluster(name)


def test_relative_folders_are_relative_to_the_profile(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = "name: x\nroots: {runs: ./runs, data: ., corpora: ../c, models: $MODELS/m}\nslurm: {conf: slurm.conf}\n"
    monkeypatch.setenv("MODELS", "/m")

    cluster = load_cluster(str(write(tmp_path, text, "site/profile.yaml")))

    assert cluster.roots.runs == str(tmp_path / "site/runs")
    assert cluster.roots.data == str(tmp_path / "site")
    assert cluster.roots.corpora == str(tmp_path / "c")
    assert expand(cluster.roots.models) == Path("/m/m")
    assert cluster.slurm.conf == str(tmp_path / "site/slurm.conf")


def test_a_profile_may_be_laid_over_a_base(tmp_path: Path) -> None:
    write(tmp_path, f"{PROFILE}slurm: {{partition: gpu, account: a}}\n", "base.yaml")

    cluster = profile(tmp_path, "base: base.yaml\nslurm: {account: b}\n")

    assert (cluster.name, cluster.slurm.partition, cluster.slurm.account) == ("site", "gpu", "b")


def test_a_secrets_file_that_others_may_read_is_refused(tmp_path: Path) -> None:
    secrets = write(tmp_path, "WANDB_API_KEY=x\n", "secrets")
    text = f"{PROFILE}secrets_file: secrets\n"

    secrets.chmod(0o640)
    refused = profile_faults(tmp_path, text)
    secrets.chmod(0o600)
    accepted = profile(tmp_path, text)

    assert refused == ["profile.yaml:3: secrets_file: others may read `secrets` (mode 0640); run `chmod 600 secrets`"]
    assert accepted.secrets_file == str(secrets)


def test_a_missing_secrets_file_is_refused(tmp_path: Path) -> None:
    (said,) = profile_faults(tmp_path, f"{PROFILE}secrets_file: ~/nothing\n")

    assert said.startswith("profile.yaml:3: secrets_file: there is no file `~/nothing`; make it with `install -m 600")


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (
            "slurm: {port_range: [32000, 10000]}",
            "slurm.port_range: 32000 to 10000 is no range of ports; write two from",
        ),
        ("slurm: {port_range: [80, 100]}", "slurm.port_range: 80 to 100 is no range of ports"),
        ("slurm: {partition: 'a b'}", "slurm.partition: `a b` is empty or has a blank in it; write one word"),
        ('slurm: {account: "x\\n#SBATCH --uid=0"}', "slurm.account: `x\\n#SBATCH --uid=0` is empty or has a blank"),
        ("slurm: {requeue: requeu}", "slurm.requeue: `requeu` is not known; did you mean `requeue`?"),
        ("slurm: {lead: 5}", "slurm.lead: `5` has no unit; write a duration such as"),
        ("partition: gpu", "partition: unknown key; did you mean `slurm.partition`?"),
        ("environment: {OMP_PROC_BIND: 1}", 'environment.OMP_PROC_BIND: `1` is not text; write `"1"`'),
        ("environment: {A B: x}", "environment.A B: is not the name of an environment variable"),
        ("gpus: {memory: 80}", "gpus.memory: `80` has no unit; write a size such as `80GB` or `64GiB`"),
        (
            "container: {runtime: docker, image: x}",
            "container.runtime: `docker` is not known; write `apptainer` or `pyxis`",
        ),
        ("mail: {address: a, events: []}", "mail.events: an empty list does not fit here; write at least 1 item"),
    ],
)
def test_what_a_site_cannot_mean_is_refused_at_its_line(tmp_path: Path, line: str, message: str) -> None:
    (said,) = profile_faults(tmp_path, f"{PROFILE}{line}\n")

    assert said.startswith(f"profile.yaml:3: {message}")


@pytest.mark.parametrize("text", ["- a\n", "just text\n", f"{PROFILE}---\n{PROFILE}", "", "name: x\n"])
def test_what_is_no_profile_is_refused(tmp_path: Path, text: str) -> None:
    assert profile_faults(tmp_path, text)


@pytest.mark.parametrize(
    ("url", "told"),
    [
        ("https://api.wandb.ai", "`api.wandb.ai` is not the site's own server"),
        ("https://api.wandb.ai./", "is not the site's own server"),
        ("https://WANDB.AI/", "`wandb.ai` is not the site's own server"),
        ("https://hospital.wandb.io", "`hospital.wandb.io` is not the site's own server"),
        ("wandb.example.org", "is not the address of a server; write one such as"),
        ("https://me:key@wandb.example.org", "is not the address of a server"),
    ],
)
def test_a_wandb_server_of_others_is_not_the_sites_own(tmp_path: Path, url: str, told: str) -> None:
    faults = "\n".join(profile_faults(tmp_path, PROFILE + f"wandb_base_url: {url}\n"))

    assert told in faults
    assert "me:key" not in faults


def test_a_wandb_server_of_the_site_is_taken(tmp_path: Path) -> None:
    text = PROFILE + "wandb_base_url: https://wandb.example.org:8443/wb\n"

    assert profile(tmp_path, text).wandb_base_url == "https://wandb.example.org:8443/wb"
