# Two commands for a fresh machine: `make demo` shows it, `make test` checks it. Both may be repeated.
VENV := .venv
NEWEST := build/latest
PYTHON_BIN := $(VENV)/bin
PYTEST := $(PYTHON_BIN)/python -m pytest -q
TESTS := bash .ci/tests $(PYTHON_BIN)/python -q
BENCHES := submit.py step_overhead.py "step_overhead.py --compile" checkpoint.py prepare.py read.py sft.py \
    "sft.py --adapter lora" align.py "align.py --adapter lora" export.py grpo.py molora.py evaluate.py generate.py \
    terminology.py report.py status.py pipeline.py recovery.py

.PHONY: demo test fast long reproduce chaos slurm-versions gpu install lint style types layers bench docs man newest latest constraints
.DELETE_ON_ERROR:

install: $(VENV)/.installed

$(VENV)/.installed: setup.cfg pyproject.toml constraints.txt .ci/install
	bash .ci/install $(VENV)

demo: install
	bash .ci/slurm-packages || true
	$(PYTHON_BIN)/launcher demo

lint: style types layers

style: install
	$(PYTHON_BIN)/ruff check .
	$(PYTHON_BIN)/ruff format --check .

types: install
	$(PYTHON_BIN)/mypy

layers: install
	$(PYTHON_BIN)/lint-imports

# Not repeated where they fail: a fast test that passes alone only depends on another one, or on chance.
fast: install
	$(PYTEST) -n 2

# Those on Slurm wait most of the time, those that train compute: together they keep two cores busy. A worker takes whole
# files, in the order of tests/conftest.py. Where Slurm cannot be installed, its tests are skipped.
test: fast
	bash .ci/model-packages
	bash .ci/with-slurm $(TESTS) -m "(slow or slurm) and not long" -n 4 --dist loadfile --no-loadscope-reorder

# What `make test` leaves out, since it takes hours: the slow tests in every strategy; every adapter in every strategy on a real
# Slurm, written into docs/strategies.json and docs/recipes.md; a prepare of a large file. And what needs a GPU.
long: install
	bash .ci/with-slurm $(PYTEST) -m long -n 2 --dist loadfile

# The five published systems in rehearsal size on a dev cluster, each preempted on its way: about an hour on 2 cores.
reproduce: install
	bash .ci/slurm-packages
	$(PYTEST) -m long tests/slurm/test_reproduce.py

# Runs on a dev cluster that are broken again and again, by faults drawn from 20 seeds (CHAOS_SEEDS=3 make chaos: from
# three, ten minutes each); what each fault cost is printed.
chaos: install
	bash .ci/slurm-packages
	$(PYTEST) -m long tests/slurm/test_chaos.py -s

# The tests of what Slurm does with the Slurm of two other Debian releases, into the table of docs/installing.md; as root, about half an hour.
slurm-versions: install
	bash .ci/slurm-versions $(RELEASES)

# At most eight minutes. Installs nothing, so that it runs where nothing can be fetched: PYTHON=python3 names another
# Python than that of .venv. What that lacks is skipped, and the report says so.
gpu:
	$(or $(PYTHON),$(if $(wildcard $(PYTHON_BIN)/python),$(PYTHON_BIN)/python,python3)) -m bench.gpu

# All of them, also after one that missed its limit or could not be measured; the last lines name those.
bench: install
	bash .ci/slurm-packages || true
	bash .ci/model-packages
	bash .ci/bench $(PYTHON_BIN)/python $(BENCHES)

docs: install
	NO_MKDOCS_2_WARNING=1 $(PYTHON_BIN)/python -m mkdocs build

man: install
	$(PYTHON_BIN)/python docs/man_pages.py build/man

# The newest versions that setup.cfg allows, in an environment of their own. Whether they work, and which of them have
# known vulnerabilities, is no part of the gate.
newest:
	rm -rf $(NEWEST)
	bash .ci/install $(NEWEST) --newest

latest: newest
	bash .ci/constraints $(NEWEST) | diff constraints.txt - || true
	bash .ci/audit $(NEWEST) || true
	$(MAKE) --keep-going VENV=$(NEWEST) lint fast

constraints: newest
	bash .ci/constraints $(NEWEST) >build/constraints.txt
	mv build/constraints.txt constraints.txt
