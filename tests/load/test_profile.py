"""Cluster profiles: found by name or file, checked, and made independent of the working directory."""

from pathlib import Path

import pytest

from launcher.errors import LauncherError
from launcher.load import load_cluster
from launcher.run.paths import expand
from tests.support.recipe_files import PROFILE, find_profile_faults, profile, summarise, write


@pytest.fixture(autouse=True)
def _empty_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.delenv("LAUNCHER_CLUSTER", raising=False)
    monkeypatch.setenv("SCRATCH", "/scratch/me")
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


def test_variables_that_are_not_set_are_said_to_be_all_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SCRATCH")
    text = PROFILE.replace("/r,", "$SCRATCH/r,").replace("/c,", "'${SCRATCH}/$TEAM',")
    text += "slurm: {conf: $SCRATCH/slurm.conf}\nsecrets_file: $SCRATCH/secrets\n"

    found = find_profile_faults(tmp_path, text)
    monkeypatch.setenv("SCRATCH", "/s")
    monkeypatch.setenv("TEAM", "t")
    secrets = [str(fault.message) for fault in find_profile_faults(tmp_path, text)]

    assert summarise(found) == [
        "profile.yaml:2 not-found roots.runs",
        "profile.yaml:2 not-found roots.corpora",
        "profile.yaml:2 not-found roots.corpora",
        "profile.yaml:3 not-found slurm.conf",
        "profile.yaml:4 not-found secrets_file",
    ]
    assert [fault.message.partition(";")[0] for fault in found[1:3]] == [
        "$SCRATCH is not set in this shell",
        "$TEAM is not set in this shell",
    ]
    assert "there is no file `$SCRATCH/secrets`" in secrets[0]


def test_a_profile_may_be_laid_over_a_base(tmp_path: Path) -> None:
    write(tmp_path, f"{PROFILE}slurm: {{partition: gpu, account: a}}\n", "base.yaml")

    cluster = profile(tmp_path, "base: base.yaml\nslurm: {account: b}\n")

    assert (cluster.name, cluster.slurm.partition, cluster.slurm.account) == ("site", "gpu", "b")


def test_a_secrets_file_that_others_may_read_is_refused(tmp_path: Path) -> None:
    secrets = write(tmp_path, "WANDB_API_KEY=x\n", "secrets")
    text = f"{PROFILE}secrets_file: secrets\n"

    secrets.chmod(0o640)
    (refused,) = find_profile_faults(tmp_path, text)
    secrets.chmod(0o600)
    accepted = profile(tmp_path, text)

    assert summarise([refused]) == ["profile.yaml:3 secret secrets_file"]
    assert "run `chmod 600 secrets`" in refused.message.replace(f"{tmp_path}/", "")
    assert accepted.secrets_file == str(secrets)


def test_a_missing_secrets_file_is_refused(tmp_path: Path) -> None:
    (fault,) = find_profile_faults(tmp_path, f"{PROFILE}secrets_file: ~/nothing\n")

    assert summarise([fault]) == ["profile.yaml:3 not-found secrets_file"]
    assert "make it with `install -m 600" in fault.message


@pytest.mark.parametrize(
    ("line", "code", "key", "said"),
    [
        ("slurm: {port_range: [32000, 10000]}", "invalid-value", "slurm.port_range", "32000 to 10000"),
        ("slurm: {port_range: [80, 100]}", "invalid-value", "slurm.port_range", "80 to 100"),
        ("slurm: {partition: 'a b'}", "invalid-value", "slurm.partition", "white space"),
        ('slurm: {account: "x\\n#SBATCH --uid=0"}', "invalid-value", "slurm.account", "`x\\n#SBATCH --uid=0`"),
        ("slurm: {requeue: requeu}", "unknown-name", "slurm.requeue", "did you mean `requeue`?"),
        ("slurm: {lead: 5}", "unit-missing", "slurm.lead", "such as `30min`"),
        ("partition: gpu", "unknown-key", "partition", "did you mean `slurm.partition`?"),
        ("environment: {OMP_PROC_BIND: 1}", "wrong-type", "environment.OMP_PROC_BIND", 'write `"1"`'),
        ("environment: {A B: x}", "invalid-value", "environment.A B", "not the name of an environment variable"),
        ("gpus: {memory: 80}", "unit-missing", "gpus.memory", "`80GB` or `64GiB`"),
        ("container: {runtime: docker, image: x}", "unknown-name", "container.runtime", "`apptainer` or `pyxis`"),
        ("mail: {address: a, events: []}", "out-of-range", "mail.events", "at least 1 item"),
    ],
)
def test_what_a_site_cannot_mean_is_refused_at_its_line(
    tmp_path: Path, line: str, code: str, key: str, said: str
) -> None:
    (fault,) = find_profile_faults(tmp_path, f"{PROFILE}{line}\n")

    assert summarise([fault]) == [f"profile.yaml:3 {code} {key}"]
    assert said in fault.message


@pytest.mark.parametrize("text", ["- a\n", "just text\n", f"{PROFILE}---\n{PROFILE}", "", "name: x\n"])
def test_what_is_no_profile_is_refused(tmp_path: Path, text: str) -> None:
    assert find_profile_faults(tmp_path, text)


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("https://api.wandb.ai", "`api.wandb.ai`"),
        ("https://api.wandb.ai./", "`api.wandb.ai.`"),
        ("https://WANDB.AI/", "`wandb.ai`"),
        ("https://hospital.wandb.io", "`hospital.wandb.io`"),
        ("https://api.forge.coreweave.com", "`api.forge.coreweave.com`"),
        ("https://Forge.CoreWeave.com/api/wandb", "`forge.coreweave.com`"),
        ("wandb.example.org", "not the address of a server"),
        ("https://me:key@wandb.example.org", "not the address of a server"),
    ],
)
def test_a_wandb_server_of_others_is_not_the_sites_own(tmp_path: Path, url: str, said: str) -> None:
    faults = find_profile_faults(tmp_path, PROFILE + f"wandb_base_url: {url}\n")
    told = "\n".join(map(str, faults))

    assert "profile.yaml:3 invalid-value wandb_base_url" in summarise(faults)
    assert said in told
    assert "me:key" not in told


def test_a_wandb_server_of_the_site_is_taken(tmp_path: Path) -> None:
    for url in ("https://wandb.example.org:8443/wb", "https://mywandb.ai", "https://wandb.ai.example.org"):
        assert profile(tmp_path, PROFILE + f"wandb_base_url: {url}\n").wandb_base_url == url
