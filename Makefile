# Two commands for a fresh machine: `make demo` shows it, `make test` checks it. Both may be repeated.
PYTHON_BIN := .venv/bin
PYTEST := $(PYTHON_BIN)/python -m pytest -q
BENCHES := submit.py step_overhead.py prepare.py read.py sft.py "sft.py --adapter lora" molora.py

.PHONY: demo test long gpu install lint bench docs
.DELETE_ON_ERROR:

install: .venv/.installed

.venv/.installed: setup.cfg pyproject.toml .ci/install
	bash .ci/install

demo: install
	bash .ci/slurm-packages || true
	$(PYTHON_BIN)/python docs/demo.py

lint: install
	$(PYTHON_BIN)/ruff check .
	$(PYTHON_BIN)/ruff format --check .
	$(PYTHON_BIN)/mypy
	$(PYTHON_BIN)/lint-imports

test: install
	bash .ci/model-packages
	$(PYTEST) -n 2
	$(PYTEST) -m "slow and not long" -n 3 --dist loadfile
	bash .ci/slurm-packages
	$(PYTEST) -m slurm -n 3 --dist loadfile

# What `make test` leaves out, since it takes hours: the slow tests in every strategy; every adapter in every strategy on a real
# Slurm, written into docs/strategies.json and docs/recipes.md; a prepare of a large file. And what needs a GPU.
long: install
	bash .ci/slurm-packages
	$(PYTEST) -m long -n 2 --dist loadfile

gpu: install
	$(PYTEST) -m gpu -rs

# All of them, also after one that missed its reach.
bench: install
	bash .ci/slurm-packages
	@missed=; for bench in $(BENCHES); do \
	    echo "bench/$$bench"; $(PYTHON_BIN)/python bench/$$bench || missed="$$missed, bench/$$bench"; \
	done; [ -z "$$missed" ] || { echo "missed: $${missed#, }" >&2; exit 1; }

docs: install
	NO_MKDOCS_2_WARNING=1 $(PYTHON_BIN)/python -m mkdocs build
