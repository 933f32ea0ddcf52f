# The two commands of this project, and what they need. Everything happens in .venv.
#   make demo    the whole way on handwritten digits, into runs/demo/
#   make test    lint, format and type check, tests (those of the page need Node.js and Chromium)
#   make test-all    with the slow ones: 10 minutes more
# And for who changes the page of mobile_demo/, which is committed as it was built:
#   make web     build it again (needs Node.js)
# The first of these that runs and is new enough.
SUITS := import sys; sys.exit(not (3, 11) <= sys.version_info[:2] < (3, 14))
PYTHON ?= $(shell for p in python3 python3.13 python3.12 python3.11; do $$p -c '$(SUITS)' 2>/dev/null && echo $$p && break; done)
BIN := .venv/bin
STAMP := .venv/.ready

.PHONY: demo test test-all setup lint clean web

demo: setup
	$(BIN)/keras-vit demo --out runs/demo

PYTEST := $(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder $(PYTEST_OPTIONS)

test: setup lint
	$(PYTEST)

test-all: setup lint
	$(PYTEST) --slow

setup: $(STAMP)

# `python -m pip` and not `pip`: the script breaks when the folder is moved.
$(STAMP): pyproject.toml constraints.txt
	@test -n "$(PYTHON)" || { echo "Python 3.11, 3.12 or 3.13 is needed: make PYTHON=/path/to/python"; exit 1; }
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt setuptools wheel
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt --no-build-isolation -e '.[dev]'
	touch $(STAMP)

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/python -m mypy --no-error-summary keras_vit export mobile_demo/*.py

web:
	cd mobile_demo/web && npm ci --silent && npm run build

clean:
	rm -rf .venv build dist *.egg-info runs mobile_demo/web/node_modules
