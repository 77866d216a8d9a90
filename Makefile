# Two commands for a fresh machine: `make demo` shows it, `make test` checks it. Both may be repeated.
PYTHON_BIN := .venv/bin
PYTEST := $(PYTHON_BIN)/python -m pytest -q

.PHONY: demo test strategies install lint bench docs
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
	bash .ci/slurm-packages
	$(PYTEST) -n 2
	$(PYTEST) -m "slow and not strategies" -n 2 --dist loadfile
	$(PYTEST) -m slurm -n 3 --dist loadfile

# What `make test` leaves out: the slow tests in every strategy.
strategies: install
	$(PYTEST) -m strategies -n 2 --dist loadfile

bench: install
	bash .ci/slurm-packages
	$(PYTHON_BIN)/python bench/submit.py
	$(PYTHON_BIN)/python bench/step_overhead.py
	$(PYTHON_BIN)/python bench/prepare.py
	$(PYTHON_BIN)/python bench/read.py
	$(PYTHON_BIN)/python bench/sft.py
	$(PYTHON_BIN)/python bench/sft.py --adapter lora
	$(PYTHON_BIN)/python bench/molora.py

docs: install
	NO_MKDOCS_2_WARNING=1 $(PYTHON_BIN)/python -m mkdocs build
