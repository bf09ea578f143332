# make demo    a trained network on simulated ReRAM, PCM and NAND tiles; ARGS="--images 500" to change it
# make test    the tests, two files at a time; ARGS="-k tile -x" to choose, ARGS="-n 0" for one after the other
# make lint    ruff and mypy
# make docs    the documentation site, in docs/_build
# make bench   the scripts in benchmarks/
# make clean   remove what was built, but for the virtual environment and the runs
#
# Each sets up its own virtual environment in .venv first; PYTHON=python3.12 chooses the Python it is made with.

PYTHON ?= python3
ARGS ?=
SHELL := /bin/bash

BIN := .venv/bin
READY := .venv/.ready
TYPED := build/typed
# all scripts but what they import, those that take hours or days, and those that want another checkout or other packages
LEFT_OUT = benchmarks/screenshots.py benchmarks/paper.py benchmarks/densenet.py benchmarks/speed_between.py \
	benchmarks/networks.py benchmarks/language_model.py benchmarks/trained_networks.py benchmarks/aihwkit_training.py \
	benchmarks/hardware_aware.py
BENCHMARKS = $(filter-out $(LEFT_OUT),$(sort $(shell grep -l '__name__ == "__main__"' benchmarks/*.py)))

.PHONY: demo test lint docs bench clean

demo: $(READY)
	$(BIN)/mho demo $(ARGS)

test: $(READY)
	$(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder $(ARGS)

# mypy wants the package laid out under its import names
lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	@rm -rf $(TYPED)
	@$(BIN)/python setup.py --quiet build_py --build-lib $(TYPED)
	cd $(TYPED) && $(CURDIR)/$(BIN)/mypy --config-file $(CURDIR)/pyproject.toml --cache-dir /dev/null -p mho

docs: $(READY)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[docs]"
	$(BIN)/python -m sphinx --fail-on-warning --quiet -b html docs docs/_build
	@echo "to look at in a browser: $(CURDIR)/docs/_build/index.html"

bench: $(READY)
	@for script in $(BENCHMARKS); do echo "== $$script"; $(BIN)/python $$script $(ARGS) || exit 1; done

clean:
	rm -rf build dist docs/_build docs/api *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -not -path './.venv/*' -prune -exec rm -rf {} +

$(READY): setup.py pyproject.toml constraints.txt
	@echo "Setting up .venv with $$($(PYTHON) --version): some minutes the first time, PyTorch is large."
	@$(PYTHON) -m venv .venv
	@set -o pipefail; $(BIN)/python -m pip install --disable-pip-version-check -c constraints.txt -e ".[test]" | \
	while read -r verb name _; do \
	    case "$$verb $$name" in \
	        Collecting*) printf '%s ' "$${name%%[^A-Za-z0-9_.-]*}" ;; \
	        "Installing collected") printf '\ninstalling them ...\n' ;; \
	    esac; \
	done
	@echo "Compiling the kernels: a minute or two."
	@OMP_NUM_THREADS=1 $(BIN)/mho demo --images 8 --vote-images 4 --votes 2 --jobs 1 --out build/demo >/dev/null
	@touch $@
