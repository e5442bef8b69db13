# `make demo` and `make test` set up all they need in .venv, given Python 3.11+, a C++ compiler, make and git.

PYTHON ?= python3
VENV ?= .venv
# Pinned here so that a set-up gives the same numbers everywhere; pyproject.toml says which versions are allowed.
TORCH ?= torch==2.14.1 torchvision==0.29.1
# Where torch's builds without CUDA are, a tenth of the size. On a machine with NVIDIA's driver, or where this index has
# none or cannot be reached, torch is that of the package index. `make CPU_TORCH=` takes that at once.
CPU_TORCH ?= $(if $(wildcard /proc/driver/nvidia/version),,https://download.pytorch.org/whl/cpu)

BIN := $(VENV)/bin
NATIVE := CMakeLists.txt $(shell find native -type f)
CPP := $(shell find native fuzz -name '*.cpp' -o -name '*.h' -o -name '*.inl')
SOURCES := pyproject.toml $(NATIVE)
INSTALL := install --quiet --disable-pip-version-check
# The same with pip's progress bars, for what takes minutes.
SHOWN := install --disable-pip-version-check --progress-bar on
REQUIREMENTS := $(PYTHON) tools/requirements.py

.PHONY: demo quick test test-oldest lint format bench study study-update study-report sanitize sanitize-short fuzz wheel release clean

demo: $(VENV)/ready
	$(BIN)/python examples/digits.py --out runs/demo
	@echo "For the command bbg in this terminal: source $(BIN)/activate"

# The inner loop of work: seconds, on the best kernel set.
quick: $(VENV)/ready $(VENV)/dev
	OMP_NUM_THREADS=1 $(BIN)/pytest -n auto -m quick

test: lint
	OMP_NUM_THREADS=1 $(BIN)/pytest -n auto

lint: $(VENV)/ready $(VENV)/dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/clang-format --dry-run -Werror $(CPP)
	$(BIN)/mypy

format: $(VENV)/dev
	$(BIN)/ruff check --fix-only --exit-zero .
	$(BIN)/ruff format .
	$(BIN)/clang-format -i $(CPP)

bench: $(VENV)/ready $(VENV)/peers
	$(BIN)/python -m bench

# The trainings of bench/study.toml, in the background: see CONTRIBUTING.md. They run in a clone with an environment of
# its own, at the commit it was made from, so that work in this folder does not change what is training.
STUDY ?= ../bbg-study
DATA ?= $(error DATA is missing; make study DATA=DIR, the folder of CIFAR-10)

study: $(STUDY)/clone
	$(MAKE) -C $(STUDY)/clone $(abspath $(STUDY))/clone/.venv/ready VENV=$(abspath $(STUDY))/clone/.venv
	cd $(STUDY)/clone && exec .venv/bin/python -m bench.study --data $(abspath $(DATA)) --runs $(abspath $(STUDY))/runs \
		--list $(CURDIR)/bench/study.toml --records $(CURDIR)/bench/results/study $(FLAGS)

$(STUDY)/clone:
	git clone --quiet . $@

# The clone at the commit that is checked out here.
study-update: $(STUDY)/clone
	git -C $(STUDY)/clone fetch --quiet $(CURDIR) HEAD
	git -C $(STUDY)/clone checkout --quiet --detach FETCH_HEAD

study-report: $(VENV)/ready
	$(BIN)/python -m bench.study.report

SANITIZED := tests/test_engine.py tests/test_engine_threads.py tests/native/test_kernels.py tests/native/test_values.py \
	tests/test_boxes.py

# A process that a test starts anew finds the installed module, whose locks ThreadSanitizer does not see.
sanitize: $(VENV)/ready $(VENV)/dev
	tests/native/sanitized.sh asan -m pytest --capture=sys $(SANITIZED)
	tests/native/sanitized.sh asan -m support.fuzz_file 10000
	tests/native/sanitized.sh guarded -m support.guarded 5000
	tests/native/sanitized.sh tsan -m pytest --capture=sys $(SANITIZED) -k "(thread or batch) and not forked and not process"

# A few minutes on two cores: random graphs and fused pools on every kernel set, threads, and damaged files.
sanitize-short: $(VENV)/ready $(VENV)/dev
	tests/native/sanitized.sh guarded -m pytest --capture=sys $(SANITIZED) -k "random_graphs or thread or (a_pool_behind and True)"
	tests/native/sanitized.sh guarded -m support.fuzz_file 500
	tests/native/sanitized.sh guarded -m support.guarded 300

# Led by what is reached: the C API under libFuzzer (clang++), the reader of packed files under atheris.
MINUTES := 10
fuzz: $(VENV)/ready $(VENV)/dev
	fuzz/run.sh $(MINUTES)

# The wheel of this Python: with the stable ABI, for 3.12 and newer, or one for 3.11. It runs on old distributions too.
wheel: $(VENV)/ready $(VENV)/release
	$(BIN)/python tools/release.py wheel

# All wheels and the source archive: RELEASE.md.
release: $(VENV)/ready $(VENV)/release
	$(BIN)/python tools/release.py all

# All tests with the lowest versions that pyproject.toml admits, in an environment of their own.
test-oldest: .venv-oldest/ready
	OMP_NUM_THREADS=1 .venv-oldest/bin/pytest -n auto

clean:
	rm -rf build dist .pytest_cache .mypy_cache .ruff_cache
	find src tests bench cases examples tools -name __pycache__ -prune -exec rm -rf {} +

# Stamps, so that a change of the native code rebuilds it without going through torch again.
$(VENV)/torch:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "bbg needs Python 3.11 or later: make PYTHON=...")'
	$(PYTHON) -m venv $(VENV)
	@echo "Installing $(TORCH): some minutes"
	$(if $(CPU_TORCH),$(BIN)/pip $(SHOWN) --retries 1 --timeout 20 --extra-index-url $(CPU_TORCH) $(TORCH:%=%+cpu) ||) \
		$(BIN)/pip $(SHOWN) $(TORCH)
	touch $@

# The package as `make demo` needs it: running and training, nothing else.
$(VENV)/ready: $(VENV)/torch $(SOURCES)
	@echo "Building the engine and installing bbg: some minutes the first time"
	$(REQUIREMENTS) build > $(VENV)/build.txt
	$(BIN)/pip $(INSTALL) --requirement $(VENV)/build.txt
	$(BIN)/pip $(INSTALL) --no-build-isolation --editable ".[train]"
	touch $@

# What tests and lint need besides, and what the benchmarks do.
$(VENV)/dev: $(VENV)/torch pyproject.toml
	$(REQUIREMENTS) dev tensorboard video ray > $(VENV)/dev.txt
	$(BIN)/pip $(INSTALL) --requirement $(VENV)/dev.txt
	touch $@

$(VENV)/peers: $(VENV)/torch pyproject.toml
	$(REQUIREMENTS) peers > $(VENV)/peers.txt
	$(BIN)/pip $(INSTALL) --requirement $(VENV)/peers.txt
	touch $@

$(VENV)/release: $(VENV)/torch pyproject.toml
	$(REQUIREMENTS) release > $(VENV)/release.txt
	$(BIN)/pip $(SHOWN) --requirement $(VENV)/release.txt
	touch $@

.venv-oldest/ready: tools/requirements.py $(SOURCES)
	$(PYTHON) -m venv .venv-oldest
	$(REQUIREMENTS) --oldest train tensorboard video ray dev build > .venv-oldest/oldest.txt
	.venv-oldest/bin/pip $(INSTALL) --requirement .venv-oldest/oldest.txt
	.venv-oldest/bin/pip $(INSTALL) --no-build-isolation --no-deps --editable .
	touch $@
