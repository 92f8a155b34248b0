# Every target makes the environment it needs.
#
#   make demo    the main example on real data, into output/demo/
#   make test    the quick tier of the tests, doctests and documentation blocks
#   make slow    the slow tier
#   make lint    style and the layers of imports
#   make docs    the documentation, into docs/_build/html/
#   make bench   the benchmarks, one after the other
#   make package the archives in dist/, checked, and the first example run from the wheel in an empty environment
#   make oldest  quick tests and the first example with the oldest dependencies that setup.cfg allows

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
THREADS := OMP_NUM_THREADS=1 MKL_NUM_THREADS=1
FIRST := /^```/ { on = $$0 ~ /python/ && !begun; begun += on; next } on

.PHONY: demo test slow lint docs bench package oldest format clean

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

# Its own environment, outside of the checkout; warnings are errors.
package: $(VENV)/.package
	rm -rf dist build
	$(BIN)/python -m build --outdir dist
	$(BIN)/python -m twine check --strict dist/*
	set -e; place=$$(mktemp -d); awk '$(FIRST)' README.md > $$place/example.py; \
	cp constraints.txt $$place; wheel=$$(realpath dist/*.whl); cd $$place; $(PYTHON) -m venv empty; \
	empty/bin/python -m pip install --quiet "$$(grep '^torch==' constraints.txt)"; \
	empty/bin/python -m pip install --quiet --constraint constraints.txt $$wheel; \
	$(THREADS) empty/bin/python -W error example.py; rm -r $$place

# Prerequisites have the lowest versions that setup.cfg names, what they need in turn the newest that
# fit, of whose deprecations the old ones warn.
oldest: $(VENV)-oldest/.made
	$(THREADS) $(VENV)-oldest/bin/python -m pytest -n 2 --dist worksteal -o filterwarnings=default \
		tests/core tests/distributions tests/flows
	$(THREADS) $(VENV)-oldest/bin/python -c "$$(awk '$(FIRST)' README.md)"

$(VENV)-oldest/.made: setup.cfg
	$(PYTHON) -m venv --clear $(VENV)-oldest
	sed -n 's/^    \([A-Za-z0-9_-]*\)>=\([0-9.]*\)[^;]*/\1==\2/p' setup.cfg | sort -u > $(VENV)-oldest/floors.txt
	$(VENV)-oldest/bin/python -m pip install --quiet "$$(grep '^torch==' $(VENV)-oldest/floors.txt)"
	$(VENV)-oldest/bin/python -m pip install --quiet --constraint $(VENV)-oldest/floors.txt \
		--editable ".[plots,evaluation]" pytest pytest-xdist hypothesis pandas
	touch $@

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
