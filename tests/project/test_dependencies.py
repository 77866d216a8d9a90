"""What is imported is declared, and what is declared has its reason in docs/decisions/dependencies.md."""

import re

from tests.support.import_scan import ROOT, declared, imported, packages

DISTRIBUTIONS = {
    "ahocorasick": "pyahocorasick",
    "backports": "backports.zstd",
    "sklearn": "scikit-learn",
    "yaml": "pyyaml",
}
"""Where the name to install is not the name to import."""
BROUGHT_ALONG = {
    "compression": "backports.zstd",  # its name in the standard library of Python 3.14
    "huggingface_hub": "transformers",
    "loguru": "datatrove",
    "pydantic_core": "pydantic",
    "tokenizers": "transformers",
}
"""What a declared package installs in the only version that it works with."""
OF_ANOTHER_PYTHON = {"vllm"}
"""What only `jobs/evaluation/vllm_worker.py` imports, in a Python that the site names."""


def imports_of(package: str) -> set[str]:
    """Return what to install for the imports of one of our packages."""
    found = set().union(*(packages(imported(path)) for path in (ROOT / package).rglob("*.py")))
    return {DISTRIBUTIONS.get(name, BROUGHT_ALONG.get(name, name)) for name in found}


def test_what_the_launcher_imports_is_always_installed() -> None:
    only_to_decode_samples_and_to_compare_scores = {"transformers", "pyarrow"}
    only_on_nodes = {"optuna", "wandb"}

    optional = only_to_decode_samples_and_to_compare_scores | only_on_nodes
    assert imports_of("launcher") - optional <= set(declared()["core"])


def test_what_the_nodes_import_is_declared() -> None:
    found = imports_of("jobs") - OF_ANOTHER_PYTHON

    assert found - {name for names in declared().values() for name in names} == set()


def test_what_another_python_runs_needs_nothing_of_ours() -> None:
    found = packages(imported(ROOT / "jobs" / "evaluation" / "vllm_worker.py"))

    assert found == OF_ANOTHER_PYTHON


def test_every_dependency_has_its_reason() -> None:
    page = ROOT / "docs" / "decisions" / "dependencies.md"
    table = re.findall(r"^\| (.+?) \| (.+?) \| ", page.read_text(encoding="utf-8"), re.MULTILINE)
    reasons = {(name, extra) for names, extras in table for name in names.split(", ") for extra in extras.split(", ")}
    wanted = {
        (name, extra) for extra, names in declared().items() for name in names if not name.startswith("launcher[")
    }

    assert wanted - reasons == set()
    assert reasons - wanted <= {("package", "in"), ("---", "---")}
