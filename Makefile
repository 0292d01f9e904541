# The README's two commands are `make demo` and `make test`; both set up .venv by themselves.
PYTHON ?= python3
BIN = .venv/bin

.PHONY: setup demo test lint fix docs bench clean

setup: .venv/.done

.venv/.done: pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "medd needs Python 3.11 or newer")'
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt \
		--editable '.[postgres,train,web,dev]'
	touch $@

demo: setup
	$(BIN)/medd demo

test: setup
	$(BIN)/pytest --numprocesses logical --dist loadfile

lint: setup
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache --config pyproject.toml

fix: setup
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

docs: setup
	$(BIN)/python docs/generate.py

bench: setup
	$(BIN)/python bench/all.py
	MEDD_FULL=1 MEDD_REQUIRE_PEERS=1 $(BIN)/pytest -m full

clean:
	rm -rf .venv dist build
