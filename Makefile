# The README's two commands are `make demo` and `make test`; both set up .venv by themselves.
PYTHON ?= python3
BIN = .venv/bin

.PHONY: setup demo test lint fix docs bench chaos cluster fuzz sbom audit clean

setup: .venv/.done

.venv/.done: pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "medd needs Python 3.11 or newer")'
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt \
		--editable '.[postgres,ray,s3,train,web,dev]'
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

chaos: setup
	$(BIN)/python -u -m tests.chaos

cluster: setup
	$(BIN)/python -u -m tests.cluster

fuzz: setup
	$(BIN)/python -u -m tests.fuzz

# What medd is built of, and what is known of it. In an environment of their own: they are not part of it.
build/tools/.done: Makefile
	$(PYTHON) -m venv build/tools
	build/tools/bin/pip install --quiet --disable-pip-version-check cyclonedx-bom==7.5.0 pip-audit==2.10.1
	touch $@

sbom: setup build/tools/.done
	build/tools/bin/cyclonedx-py environment --pyproject pyproject.toml --spec-version 1.6 --output-reproducible \
		--output-file build/sbom.json $(BIN)/python

# A known flaw fails. Where the advisory database cannot be reached, or knows not one of our packages, that is said.
audit: setup build/tools/.done
	@$(BIN)/python -m pip freeze --exclude-editable >build/installed.txt; rm -f build/audit.json
	-@timeout 300 build/tools/bin/pip-audit --requirement build/installed.txt --no-deps --disable-pip --progress-spinner off \
		--timeout 10 --format json --output build/audit.json 2>build/audit.log
	@$(BIN)/python .ci/audited.py build/audit.json

clean:
	rm -rf .venv dist build
