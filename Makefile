# make demo | test | serve: each sets itself up on a fresh machine (Python 3.11 or newer).
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/installed
CONFIG ?= configs/demo.yaml
# Without an NVIDIA driver the CPU wheel of torch is taken: the default one brings gigabytes of CUDA.
TORCH := 2.13.0
TORCH_CPU_INDEX ?= https://download.pytorch.org/whl/cpu
export RAY_USAGE_STATS_ENABLED ?= 0
export HF_HUB_OFFLINE ?= 1

.PHONY: demo test lint serve docs clean install

install: $(STAMP)

$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
	  || { echo "error: ragray needs Python 3.11 or newer; set PYTHON=/path/to/python3.11" >&2; exit 2; }
	$(PYTHON) -m venv $(VENV)
	@if command -v nvidia-smi >/dev/null 2>&1 && nvidia-smi >/dev/null 2>&1; \
	  then $(BIN)/pip install --quiet "torch==$(TORCH)"; \
	  else $(BIN)/pip install --quiet "torch==$(TORCH)+cpu" 2>/dev/null \
	    || $(BIN)/pip install --quiet --index-url $(TORCH_CPU_INDEX) "torch==$(TORCH)"; fi
	$(BIN)/pip install --quiet --constraint constraints.txt --editable ".[dev]"
	@touch $@

demo: $(STAMP)
	$(BIN)/ragray demo --config $(CONFIG)

serve: $(STAMP)
	$(BIN)/ragray serve --config $(CONFIG)

# Those without Ray run beside each other, those with it one after another.
test: lint
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest tests/contract tests/unit \
	  --numprocesses=logical --maxprocesses=4 --dist=loadfile
	$(BIN)/python -m pytest tests/ray tests/e2e tests/gpu

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

docs/configuration.md: ragray/config.py ragray/config_data.py ragray/config_train.py ragray/config_reference.py $(STAMP)
	$(BIN)/ragray inspect fields > $@

docs: docs/configuration.md

clean:
	rm -rf $(VENV) artifacts
