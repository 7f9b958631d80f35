# Two commands for everybody: `make run` and `make test`. `make` alone lists the rest.
# A stamp under .venv or .tools says what is installed, so that a second run starts at once.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DELETE_ON_ERROR:
.DEFAULT_GOAL := help
MAKEFLAGS += --no-builtin-rules --no-print-directory

PYTHON ?=
ARGS ?=
PIP := .venv/bin/python -m pip --quiet --disable-pip-version-check --no-input
SOURCES := registry storage tests conformance benchmarks

.PHONY: help
help: ## list the targets
	@sed -nE 's/^([a-z-]+):.*## (.*)/  make \1\t\2/p' Makefile | expand -t 22

.PHONY: run
run: .venv/.runtime ## serve on 127.0.0.1:5000 with the data in ./data (ARGS="--listen ...")
	@exec .venv/bin/pierhead serve $(ARGS)

.PHONY: install
install: .venv/.runtime ## make .venv with what pierhead needs, and nothing else

.PHONY: test
test: .venv/.development ## run every test (ARGS="tests/storage -k link")
	@exec .venv/bin/python -m pytest $(ARGS)

.PHONY: check
check: .venv/.development ## format, lint, types, import rules: what must hold before a commit
	@.venv/bin/ruff format --check $(SOURCES)
	@.venv/bin/ruff check $(SOURCES)
	@.venv/bin/mypy
	@.venv/bin/lint-imports

.PHONY: format
format: .venv/.development ## rewrite the sources as `make check` wants them
	@.venv/bin/ruff check --select I --fix $(SOURCES)
	@.venv/bin/ruff format $(SOURCES)

.PHONY: conformance
conformance: .venv/.development .tools/installed ## run the official OCI suite against every variant
	@exec .venv/bin/python -m conformance $(ARGS)

.PHONY: bench
bench: .venv/.development .tools/installed ## measure against distribution v3 on this machine
	@exec .venv/bin/python -m benchmarks $(ARGS)

.PHONY: tools
tools: .tools/installed ## install the Go programs of tests/tools.txt into .tools/bin (needs go)

.PHONY: lock
lock: .tools/lock/.made ## resolve the dependencies of pyproject.toml again, newest versions, with hashes
	@$(COMPILE) --output-file=requirements.txt pyproject.toml
	@$(COMPILE) --constraint=requirements.txt --extra=test --extra=check --output-file=requirements-dev.txt pyproject.toml

.PHONY: clean
clean: ## remove what make made; data/ stays
	rm -rf .venv .tools .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis build *.egg-info
	find $(SOURCES) -name __pycache__ -type d -prune -exec rm -rf {} +

# setuptools is among the locked packages: the project itself is then built without another download.
.venv/.runtime: requirements.txt pyproject.toml .venv/.made
	@echo 'installing what pierhead needs into .venv'
	@$(PIP) install --require-hashes -r requirements.txt
	@$(PIP) install --no-deps --no-build-isolation --no-index -e .
	@touch $@

.venv/.development: requirements-dev.txt .venv/.runtime
	@echo 'installing what tests and checks need into .venv'
	@$(PIP) install --require-hashes -r requirements-dev.txt
	@touch $@

.venv/.made:
	@$(FIND_PYTHON); "$$python" -m venv --clear .venv
	@touch $@

PIP_TOOLS_VERSION := 7.6.2
COMPILE := CUSTOM_COMPILE_COMMAND='make lock' .tools/lock/bin/pip-compile --quiet --upgrade --generate-hashes \
	--allow-unsafe --build-deps-for=editable --strip-extras --no-emit-index-url --no-emit-find-links \
	--no-emit-trusted-host

.tools/lock/.made: Makefile
	@$(FIND_PYTHON); "$$python" -m venv --clear .tools/lock
	@.tools/lock/bin/python -m pip --quiet --disable-pip-version-check install pip-tools==$(PIP_TOOLS_VERSION)
	@touch $@

# Sets $python to the first interpreter that really runs (a name on the PATH may be a shim of none).
define FIND_PYTHON
for python in $(or $(PYTHON),python3.11 python3.12 python3.13 python3.14 python3); do \
	"$$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && break || python=; \
done; \
if [ -z "$$python" ]; then \
	echo 'Python 3.11 or newer is needed; name one with: make PYTHON=/path/to/python3' >&2; exit 1; \
fi; \
if ! "$$python" -c 'import ensurepip, venv' 2>/dev/null; then \
	echo "$$python cannot make virtual environments; on Debian: apt-get install python3-venv" >&2; exit 1; \
fi
endef

# -modcacherw: a module cache that `rm -rf` can remove.
.tools/installed: tests/tools.txt
	@if ! command -v go >/dev/null; then echo 'go 1.24 or newer is needed for: make tools' >&2; exit 1; fi
	@mkdir -p .tools/bin .tools/versions
	@while read -r name module; do \
		case "$$name" in ''|'#'*) continue;; esac; \
		if [ -x ".tools/bin/$$name" ] && [ "$$(cat ".tools/versions/$$name" 2>/dev/null)" = "$$module" ]; then continue; fi; \
		echo "installing $$module"; \
		GOFLAGS=-modcacherw GOBIN="$(CURDIR)/.tools/bin" go install "$$module" </dev/null; \
		echo "$$module" > ".tools/versions/$$name"; \
	done < tests/tools.txt
	@touch $@
