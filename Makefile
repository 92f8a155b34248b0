# Every target makes the environment it needs.
#
#   make demo    the main job on real data, into output/demo/
#   make test    the quick tier of the tests, doctests and documentation blocks
#   make slow    the slow tier
#   make lint    style, floors, types
#   make docs    the documentation, into docs/_build/html/
#   make bench   the benchmarks, one after the other

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
THREADS := OMP_NUM_THREADS=1 MKL_NUM_THREADS=1

.PHONY: demo test slow lint docs bench format clean

demo: $(VENV)/.demo
	$(BIN)/python examples/digits.py --output output/demo
	$(BIN)/python examples/posteriors.py --output output/demo
	$(BIN)/python examples/flow_prior_vae.py --output output/demo
	$(BIN)/python examples/diffusion_posterior.py --output output/demo

test: $(VENV)/.test
	$(THREADS) $(BIN)/python -m pytest -n 2 --dist worksteal

slow: $(VENV)/.test
	$(THREADS) $(BIN)/python -m pytest -n 2 --dist worksteal -m slow

lint: $(VENV)/.lint
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/lint-imports

docs: $(VENV)/.docs
	$(BIN)/python -m sphinx -W --keep-going -b html docs docs/_build/html

bench: $(VENV)/.bench
	for script in benchmarks/*.py; do $(THREADS) $(BIN)/python $$script || exit 1; done

format: $(VENV)/.lint
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

clean:
	rm -rf $(VENV) output docs/_build

# torch comes first and exactly: any other request may bring gigabytes of CUDA.
$(VENV)/.base: constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet "$$(grep '^torch==' constraints.txt)"
	touch $@

$(VENV)/.%: setup.cfg constraints.txt $(VENV)/.base
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable ".[$*]"
	touch $@
