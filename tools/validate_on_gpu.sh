#!/usr/bin/env bash
# Checks a bundle on a machine with an NVIDIA GPU: what no machine without one can tell.
#   bash tools/validate_on_gpu.sh BUNDLE
#   bash tools/validate_on_gpu.sh --dry-run BUNDLE     says what would be built, checked and left out; writes nothing and needs no GPU
# Builds what this machine has the tools for (TensorRT audio engine: trtexec or the tensorrt package; TensorRT-LLM engine: trtllm-build <= 1.2.x), runs every
# engine that is there, of the tower and of the decoder, on the bundle's own clips, and compares with what PyTorch said. What cannot be checked here is said
# and left out: trtllm-serve and Triton among it.
# Writes gpu_validation/ into the bundle (logs, and rows for the table of docs/deploy.md) and gpu_validated into its manifest: true where every engine of the
# bundle ran here and every check on the GPU holds, a checkpoint of TensorRT-LLM counting as an engine.
#   PYTHON=...   interpreter with nemo_desta; CUDA builds of torch, onnxruntime-gpu, tensorrt_rtx, tensorrt and tensorrt_llm as far as they are wanted
# Exit code 0: every check that ran holds, 1: one does not, 2: there is no GPU or no bundle.
set -uo pipefail
usage() { sed -n '2,/^[^#]/{/^#/s/^# \{0,1\}//p}' "$0"; }
dry=
case "${1:-}" in
  -h|--help) usage; exit 0;;
  --dry-run) dry=1; shift;;
  -*) echo "validate_on_gpu: there is no option $1; see --help" >&2; exit 2;;
esac
bundle=$(cd "${1:-}" 2>/dev/null && [ -n "${1:-}" ] && pwd) || { echo "validate_on_gpu: there is no directory '${1:-}'; give that of a bundle" >&2; exit 2; }
root=$(cd "$(dirname "$0")/.." && pwd)
python=${PYTHON:-$root/.venv/bin/python}
[ -x "$(command -v "$python")" ] || python=python3
[ -f "$bundle/manifest.json" ] || { echo "validate_on_gpu: $bundle is no bundle (it has no manifest.json)" >&2; exit 2; }
export PYTHONPATH="$root${PYTHONPATH:+:$PYTHONPATH}"
has() { "$python" -c "import importlib.util, sys; sys.exit(importlib.util.find_spec('$1') is None)"; }
cuda_ort() { has onnxruntime && "$python" -c "import onnxruntime, sys; sys.exit('CUDAExecutionProvider' not in onnxruntime.get_available_providers())"; }
if [ -n "$dry" ]; then
  plan() { printf '%-36s %s\n' "$1" "$2"; }
  audio=$bundle/audio llm=$bundle/llm
  if command -v nvidia-smi >/dev/null && nvidia-smi -L | grep -q GPU; then plan "GPU" "$(nvidia-smi -L | head -n 1)"; else plan "GPU" "none here: the script itself would stop"; fi
  if [ -f "$audio/model.engine" ]; then plan "TensorRT audio engine" "built before, would be run"
  elif command -v trtexec >/dev/null; then plan "TensorRT audio engine" "would be built with trtexec and run"
  elif has tensorrt; then plan "TensorRT audio engine" "would be built with the tensorrt package and run"
  else plan "TensorRT audio engine" "left out: neither trtexec nor the tensorrt package is here"; fi
  if [ ! -d "$audio/rtx" ]; then plan "TensorRT-RTX engines" "left out: the bundle has none"
  elif has tensorrt_rtx_bindings; then plan "TensorRT-RTX engines" "would be run"
  else plan "TensorRT-RTX engines" "left out: tensorrt_rtx is not installed"; fi
  if cuda_ort; then plan "ONNX Runtime on the GPU" "would be run"; else plan "ONNX Runtime on the GPU" "left out: onnxruntime-gpu is not installed"; fi
  if [ ! -d "$llm/trtllm_ckpt" ]; then plan "TensorRT-LLM engine" "left out: the bundle has no llm/trtllm_ckpt"
  elif [ -f "$llm/trtllm_engine/config.json" ]; then plan "TensorRT-LLM engine" "built before, would be run"
  elif command -v trtllm-build >/dev/null; then plan "TensorRT-LLM engine" "would be built with trtllm-build and run"
  else plan "TensorRT-LLM engine" "left out: trtllm-build (tensorrt_llm<=1.2.1) is not here"; fi
  exit 0
fi
command -v nvidia-smi >/dev/null && nvidia-smi -L | grep -q GPU || { echo "validate_on_gpu: this machine has no NVIDIA GPU (nvidia-smi finds none)" >&2; exit 2; }
logs=$bundle/gpu_validation
mkdir -p "$logs"
left_out() { echo "left out: $*" | tee -a "$logs/left_out.txt"; }
: > "$logs/left_out.txt"

{
  nvidia-smi --query-gpu=name,driver_version,memory.total,compute_cap --format=csv
  "$python" - <<'VERSIONS'
from importlib.metadata import PackageNotFoundError, version
for name in ("torch", "transformers", "onnxruntime-gpu", "tensorrt-rtx-cu13-bindings", "tensorrt", "tensorrt_llm", "vllm"):
    try:
        print(name, version(name))
    except PackageNotFoundError:
        print(name, "is not installed")
VERSIONS
} | tee "$logs/machine.txt"

echo "== audio engine of TensorRT"
if [ -f "$bundle/audio/model.engine" ]; then
  echo "built before"
elif command -v trtexec >/dev/null; then
  bash "$bundle/audio/build_trt.sh" > "$logs/build_trt.log" 2>&1 || left_out "TensorRT audio engine: trtexec failed, see gpu_validation/build_trt.log"
elif has tensorrt; then
  "$python" - "$bundle" > "$logs/build_trt.log" 2>&1 <<'BUILD' || left_out "TensorRT audio engine: the builder failed, see gpu_validation/build_trt.log"
import json, sys
from pathlib import Path
from nemo_desta.export.tensorrt_build import build_in_process, tower_profiles
audio = Path(sys.argv[1]) / "audio"
print(build_in_process(audio / "model.onnx", audio / "model.engine", tower_profiles(json.loads((audio / "config.json").read_text()), 16), "tensorrt"))
BUILD
else
  left_out "TensorRT audio engine: neither trtexec nor the tensorrt package is here"
fi
has tensorrt_rtx_bindings || left_out "TensorRT-RTX engines: tensorrt_rtx is not installed"
cuda_ort || left_out "ONNX Runtime on the GPU: onnxruntime-gpu is not installed"

echo "== engine of TensorRT-LLM"
engine=()
if [ ! -d "$bundle/llm/trtllm_ckpt" ]; then
  left_out "TensorRT-LLM engine: the bundle has no llm/trtllm_ckpt"
elif [ -f "$bundle/llm/trtllm_engine/config.json" ]; then
  engine=(--trtllm-engine "$bundle/llm/trtllm_engine")
elif command -v trtllm-build >/dev/null; then
  if bash "$bundle/llm/trtllm_ckpt/build_engine.sh" > "$logs/build_engine.log" 2>&1; then
    engine=(--trtllm-engine "$bundle/llm/trtllm_engine")
  else
    left_out "TensorRT-LLM engine: trtllm-build failed, see gpu_validation/build_engine.log"
  fi
else
  left_out "TensorRT-LLM engine: trtllm-build (tensorrt_llm<=1.2.1) is not here"
fi
[ -d "$bundle/trtllm_pytorch" ] && left_out "TensorRT-LLM's PyTorch backend: start trtllm-serve by hand (docs/deploy.md)"
[ -d "$bundle/triton" ] && left_out "Triton: start tritonserver by hand (docs/deploy.md)"

echo "== checks"
"$python" "$root/tools/verify_bundle.py" "$bundle" --gpu "${engine[@]}" | tee "$logs/checks.txt"
code=${PIPESTATUS[0]}
gpu=$(nvidia-smi --query-gpu=name --format=csv,noheader | head -n 1)
versions=$(grep -v "not installed" "$logs/machine.txt" | tail -n +3 | paste -sd, | sed 's/,/, /g')
awk -v gpu="$gpu" -v day="$(date -u +%F)" -v versions="$versions" \
  '/^(ok|FAILED)/ { state = $1; $1 = ""; sub(/^ /, ""); print "| " $0 " | " state " | " gpu " | " day " | " versions " |" }' "$logs/checks.txt" > "$logs/table.md"
echo "== rows for docs/deploy.md (also in $logs/table.md)"
cat "$logs/table.md" "$logs/left_out.txt"
exit "$code"
