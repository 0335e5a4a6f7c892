# make demo | demo-export | test | test-assets | lint | demo-ci | lock | clean
#
#   PYTHON=...       interpreter for the environment (3.11 or 3.12); found by itself where it is not given
#   TORCH_INDEX=...  address of one more package index, e.g. PyTorch's CPU builds: saves about 3 GB of CUDA libraries on Linux without a GPU
#   RUN_DIR=...      run whose model `make demo-export` takes
#   CONFIG=, ARGS=   recipe of `make demo` and overrides of its keys: make demo ARGS="trainer.max_steps=100"
#   PYTEST_ARGS=     what `make test` passes to pytest

SHELL := bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:

VENV ?= .venv
CONFIG ?= desta25_mini
CI_CONFIG ?= desta25_ci
ARGS ?=
RUN_DIR ?= runs/mini
PYTEST_ARGS ?= -n auto --dist loadfile
TORCH_INDEX ?=

BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
# In a terminal pip shows what it fetches; a log of CI needs only its errors.
PIP := $(BIN)/python -m pip install --disable-pip-version-check $(if $(CI),--quiet)
PIP_INDEX := $(if $(TORCH_INDEX),--extra-index-url $(TORCH_INDEX))
# What the lock holds: the package with these extras.
LOCK_EXTRAS := dev,lora,export,serve,ray
LOCK_TORCH := 2.13.0
# Pinned here and installed without its dependency PyAudio, which only live playback needs and which has no wheel for Linux.
NO_DEPS := tinysoundfont==0.3.7

# The first interpreter of the right version that can make an environment; PYTHON= overrides the search.
define FIND_PYTHON
for candidate in "$(PYTHON)" python3.11 python3.12 python3 python; do \
  if [ -n "$$candidate" ] && "$$candidate" -c 'import ensurepip, sys, venv; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 12))' >/dev/null 2>&1; then \
    echo "$$candidate"; exit 0; \
  fi; \
  if [ -n "$$candidate" ] && [ "$$candidate" = "$(PYTHON)" ]; then \
    echo "make: PYTHON=$$candidate is not Python 3.11 or 3.12 with the venv module" >&2; exit 1; \
  fi; \
done; \
echo "make: Python 3.11 or 3.12 with the venv module is needed and was not found." >&2; \
echo "      On Debian 12: apt-get install python3.11 python3.11-venv   (Ubuntu 24.04: python3.12 python3.12-venv)" >&2; \
echo "      or name one:  make PYTHON=/path/to/python3.11 ..." >&2; \
exit 1
endef

.PHONY: help install demo demo-ci engines demo-export test test-assets lint format lock clean distclean

help:
	@sed -n 's/^## //p' $(MAKEFILE_LIST)

## make install   .venv with the exact versions of requirements.lock
install: $(STAMP)

$(STAMP): requirements.lock pyproject.toml
	@if [ ! -x $(BIN)/python ]; then \
	  python=$$($(FIND_PYTHON)); \
	  echo "make: environment $(VENV) with $$($$python --version)"; \
	  "$$python" -m venv --clear $(VENV); \
	fi
	@echo "make: installing requirements.lock into $(VENV) (a few minutes the first time)"
	@$(PIP) $(PIP_INDEX) -r requirements.lock \
	  || { echo "make: pip could not install requirements.lock (see above). Check the network or the package index, then run the same command again." >&2; exit 1; }
	@$(PIP) --quiet --no-deps $(NO_DEPS)
	@$(PIP) --quiet --no-deps --no-build-isolation -e .
	@touch $@

## make demo      assets, corpus, self-generated targets, training, evaluation, report; goes on where it stopped
demo: $(STAMP)
	@$(BIN)/python tools/demo.py $(CONFIG) $(ARGS)

## make demo-ci   the same way with the ci tier: real models and audio, a handful of steps
demo-ci: $(STAMP)
	@$(BIN)/python tools/demo.py $(CI_CONFIG) $(ARGS)

## make engines   TensorRT-RTX and ModelOpt into the environment: ahead-of-time engines and quantisation (about 250 MB)
engines: $(STAMP)
	@$(PIP) --quiet --no-build-isolation $(PIP_INDEX) -e '.[engines]'

## make demo-export  the demo's model as a bundle in RUN_DIR/bundle: audio tower and LLM with KV cache as ONNX and TensorRT-RTX engines, LLM for
##                Hugging Face engines; compared with PyTorch on held-out clips, greedy answers token for token; the tower once more in fp16, RUN_DIR/bundle-fp16
##                (after make demo and make engines)
demo-export: $(STAMP)
	@$(BIN)/python examples/export_trtllm.py --config-name=export checkpoint=$(RUN_DIR)/train output=$(RUN_DIR)/bundle dtype=float32 \
	  'clips=[$(RUN_DIR)/corpus/cuts_test.jsonl.gz]' 'targets=[onnx,onnx_decoder,tensorrt_rtx,hf]'
	@$(BIN)/python examples/export_trtllm.py --config-name=export checkpoint=$(RUN_DIR)/train output=$(RUN_DIR)/bundle-fp16 \
	  'clips=[$(RUN_DIR)/corpus/cuts_test.jsonl.gz]' 'targets=[onnx,tensorrt_rtx]'

## make test      all tests that need no GPU, after fetching the ci tier's assets
# Without a network the tests that need assets are skipped with a reason; under CI=true a missing asset is a failure.
test: $(STAMP)
	@$(BIN)/python tools/fetch_assets.py fetch --tier ci --models \
	  || { [ "$${CI:-}" != true ] && echo "make: not all assets are here; tests that need them will be skipped" >&2; }
	@$(BIN)/python -m pytest $(PYTEST_ARGS)

## make test-assets  the tests of real packages, after fetching the lean tier's assets (704 MB)
test-assets: $(STAMP)
	@$(BIN)/python tools/fetch_assets.py fetch --tier lean --models
	@$(BIN)/python -m pytest $(PYTEST_ARGS) -m assets

## make lint      ruff and mypy
lint: $(STAMP)
	@$(BIN)/python -m ruff check .
	@$(BIN)/python -m mypy

## make format    sort imports and apply ruff's safe fixes
format: $(STAMP)
	@$(BIN)/python -m ruff check --fix .

## make lock      resolve pyproject.toml again and write requirements.lock (needs the network)
# Local version labels (+cpu) are cut off and the libraries that only CUDA builds of torch bring are left out, so that
# one lock serves CPU and GPU machines: pip adds what the torch of the machine requires.
lock:
	@rm -rf .lock-venv && python=$$($(FIND_PYTHON)) && "$$python" -m venv .lock-venv
	@.lock-venv/bin/python -m pip install --quiet --disable-pip-version-check $(PIP_INDEX) "torch==$(LOCK_TORCH)" "setuptools>=77"
	@.lock-venv/bin/python -m pip install --quiet --disable-pip-version-check $(PIP_INDEX) ".[$(LOCK_EXTRAS)]"
	@{ echo "# Exact versions of everything that make installs: the package's dependencies with the extras $(LOCK_EXTRAS)."; \
	   echo "# Made by: make lock"; \
	   .lock-venv/bin/python -m pip freeze --all --exclude pip --exclude nemo_desta --exclude nemo-desta \
	     | sed -E -e 's/\+[A-Za-z0-9.]+$$//' -e '/^(nvidia-|triton==|cuda-toolkit)/d' \
	              -e 's/^(cuda-(bindings|pathfinder)==.*)$$/\1 ; platform_system != "Darwin"/' \
	     | LC_ALL=C sort -f; } > requirements.lock.new
	@! grep -nE '@|file:|://' requirements.lock.new || { echo "make: the lock would hold a path or an address" >&2; exit 1; }
	@mv requirements.lock.new requirements.lock && rm -rf .lock-venv build
	@echo "make: requirements.lock holds $$(grep -c == requirements.lock) packages"

## make clean     remove caches of tools and builds; runs and .venv stay
clean:
	@rm -rf .pytest_cache .mypy_cache .ruff_cache .hypothesis build dist .lock-venv requirements.lock.new ./*.egg-info
	@find nemo_desta tests tools examples -name __pycache__ -type d -prune -exec rm -rf {} +

## make distclean clean, and the environment too
distclean: clean
	@rm -rf $(VENV)
