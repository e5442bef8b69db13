# `make demo` and `make test` set up all they need in .venv, given Python 3.11+, a C++ compiler, make and git.

PYTHON ?= python3
VENV ?= .venv
# Pinned here so that a set-up gives the same numbers everywhere; pyproject.toml says which versions are allowed.
TORCH ?= torch==2.14.1 torchvision==0.29.1

BIN := $(VENV)/bin
NATIVE := CMakeLists.txt $(shell find native -type f)
SOURCES := pyproject.toml $(NATIVE)

.PHONY: demo test lint bench sanitize wheel clean

demo: $(VENV)/ready
	$(BIN)/python examples/digits.py --out runs/demo

test: lint
	OMP_NUM_THREADS=1 $(BIN)/pytest -n 2

lint: $(VENV)/ready
	$(BIN)/ruff check .
	$(BIN)/mypy

BENCHMARKS := kernels layers peers foreign sizes footprint larq_engine bnn_lab report

bench: $(VENV)/ready
	set -e; for name in $(BENCHMARKS); do echo "bench/$$name.py"; $(BIN)/python bench/$$name.py; done

sanitize: $(VENV)/ready
	tests/sanitized.sh asan -m pytest --capture=sys tests/test_engine.py tests/test_kernels.py tests/test_values.py
	tests/sanitized.sh asan tests/fuzz_packed.py 10000
	tests/sanitized.sh tsan -m pytest --capture=sys tests/test_engine.py tests/test_kernels.py tests/test_values.py -k "thread or batch"

wheel: $(VENV)/ready
	rm -rf dist
	$(BIN)/pip wheel --quiet --no-deps --no-build-isolation --wheel-dir dist .
	@find dist -name '*.whl' -size +5000k -exec sh -c 'echo "$$0 is larger than 5 MB" && false' {} + && ls -l dist

clean:
	rm -rf build dist .pytest_cache .mypy_cache .ruff_cache
	find src tests bench examples -name __pycache__ -prune -exec rm -rf {} +

# Two stamps, so that a change of the native code rebuilds it without going through torch again.
$(VENV)/torch:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "bbg needs Python 3.11 or later: make PYTHON=...")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check $(TORCH)
	touch $@

$(VENV)/ready: $(VENV)/torch $(SOURCES)
	$(BIN)/pip install --quiet --disable-pip-version-check "scikit-build-core>=0.10" "nanobind>=2.2" "cmake>=3.26" "ninja>=1.11"
	$(BIN)/pip install --quiet --disable-pip-version-check --no-build-isolation --editable ".[train,bench,dev]"
	touch $@
