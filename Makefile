# Every target sets up what it needs, once. `make demo` and `make test` each work as the only command on a fresh clone.

PYTHON ?= python3
# A CPU build. For CUDA: make TORCH='torch>=2.6' demo
TORCH ?= torch==2.13.0
VENV := .venv
BIN := $(VENV)/bin

.PHONY: demo test check format bench gpu-check sanitize clean

demo: $(VENV)/.run
	$(BIN)/longshort demo

# A process for each core; one thread each, or they would wait for one another.
test: $(VENV)/.dev
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --maxprocesses 8 --dist worksteal

check: $(VENV)/.dev
	$(BIN)/ruff format --check src tests benchmarks examples build_native.py
	$(BIN)/ruff check src tests benchmarks examples build_native.py
	$(BIN)/pyright
	$(BIN)/python -m pytest tests/test_architecture.py

format: $(VENV)/.dev
	$(BIN)/ruff format src tests benchmarks examples build_native.py
	$(BIN)/ruff check --fix src tests benchmarks examples build_native.py

# Peers live in an environment of their own: mlstm_kernels is not under an open licence, and no test needs them. Some ask
# for packages that a CPU has no use for, so they come alone. Another processor's page: make bench PAGE=docs/...
PAGE ?= docs/performance.md
bench: .venv-bench/.ready
	$(PYTHON) build_native.py
	PYTHONPATH=src .venv-bench/bin/python -W ignore benchmarks/speed.py --threads 2 --json benchmarks/speed.json --markdown $(PAGE)

# Runs with any interpreter that has torch and pytest: make gpu-check PYTHON=python3. Installs nothing.
gpu-check:
	PYTHONPATH=src $(PYTHON) benchmarks/gpu_check.py

# The C++ core with AddressSanitizer and UBSan, under its tests; afterwards it is compiled again as it is used.
sanitize: $(VENV)/.dev
	$(BIN)/python build_native.py --sanitize
	LD_PRELOAD=$$($${CXX:-c++} -print-file-name=libasan.so):$$($${CXX:-c++} -print-file-name=libubsan.so) \
		ASAN_OPTIONS=detect_leaks=0 OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --maxprocesses 8 --dist worksteal \
		tests/cells/test_native.py -k "not exports and not one_openmp and not hang and not loader"; \
		status=$$?; $(BIN)/python build_native.py; exit $$status

clean:
	rm -rf $(VENV) .venv-bench runs

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)

# What an installation is made from. The C++ core is compiled along, if there is a compiler.
SOURCES := pyproject.toml build_native.py $(wildcard src/longshort/cells/cpp/*.h src/longshort/cells/cpp/*.cpp)

# What it takes to use the library.
$(VENV)/.run: $(SOURCES) | $(VENV)/bin/python
	$(BIN)/pip install -q $(TORCH) -e '.[hand]'
	touch $@

# What it takes to work on it, and so to use it: one installation, for each compiles the core. xlstm is a stranger that
# tests compare with; its own dependencies are not wanted.
$(VENV)/.dev: $(SOURCES) | $(VENV)/bin/python
	$(BIN)/pip install -q $(TORCH) -e '.[dev]'
	$(BIN)/pip install -q --no-deps xlstm==2.0.6
	touch $(VENV)/.run $@

.venv-bench/.ready:
	$(PYTHON) -m venv .venv-bench
	.venv-bench/bin/pip install -q $(TORCH) numpy safetensors rich einops omegaconf packaging ninja onnx onnxruntime openvino
	.venv-bench/bin/pip install -q $(TORCH) mlstm_kernels==2.0.6
	.venv-bench/bin/pip install -q --no-deps xlstm==2.0.6 flashrnn==1.0.8
	touch $@
