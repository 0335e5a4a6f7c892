"""Export a trained model to a bundle of files for ONNX Runtime, TensorRT-RTX, TensorRT, TensorRT-LLM and Hugging Face engines.

    python examples/export_trtllm.py --config-name=export checkpoint=tiny-random output=runs/export/tiny     # a made model; two CPU cores, a minute
    python examples/export_trtllm.py --config-name=export checkpoint=runs/mini/train output=runs/export/mini \
        dtype=float32 targets=[onnx,onnx_decoder,tensorrt_rtx,hf]
    python examples/export_trtllm.py --config-name=export checkpoint=DeSTA-ntu/DeSTA2.5-Audio-Llama-3.1-8B output=runs/export/desta25 tp=2 pp=2

Every part is compared with the PyTorch model before the bundle takes its place; a failed export leaves an older bundle as it was. Parts that
did not change since the last export are taken over. `python tools/verify_bundle.py BUNDLE` repeats the checks anywhere.
"""

import logging

from nemo.core.config import hydra_runner
from omegaconf import DictConfig

from nemo_desta.cli import say_errors
from nemo_desta.export.pipeline import export
from nemo_desta.export.settings import typed_export


@hydra_runner(config_path="../conf", config_name="export")
def main(cfg: DictConfig) -> None:
    """Entry point."""
    with say_errors("from the parts that are finished in an older bundle"):
        settings = typed_export(cfg)
        manifest = export(settings)
    log = logging.getLogger("nemo_desta")
    for name, part in manifest["parts"].items():
        size = sum(file["bytes"] for file in part["files"].values()) / 1e6
        log.info("%-28s %9.1f MB  %s", name, size, "unchanged" if part.get("reused") else f"{part['seconds']:.1f} s")
    for name, check in manifest["parity"].items():
        log.info("%-28s %s", name, check["detail"])
    log.info("bundle: %s", settings.output)


if __name__ == "__main__":
    main()
