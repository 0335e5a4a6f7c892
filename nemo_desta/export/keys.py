"""What the parts of a bundle depend on. An export makes a part again where this has changed, and needs room for such parts alone."""

from functools import cached_property
from pathlib import Path
from typing import Any

from nemo_desta.export.settings import ExportConfig
from nemo_desta.export.source import Source, encoder_files
from nemo_desta.modules.encoder import resolve_encoder
from nemo_desta.provenance import fingerprint, library_versions, plain


class PartKeys:
    """Keys of the parts, from settings and files alone; those of parts that depend on the loaded model add to :meth:`of`.

    Args:
        cfg: of the export.
        source: of the export.
    """

    def __init__(self, cfg: ExportConfig, source: Source) -> None:
        self.cfg, self.source = cfg, source

    @cached_property
    def hashes(self) -> dict[str, Any]:
        """Of the checkpoint, the LLM and the encoder: every byte is read, once."""
        checkpoint = self.source.checkpoint
        return {
            "checkpoint": {name: fingerprint(checkpoint / name) for name in ("config.json", "model.safetensors")},
            "llm": fingerprint(self.source.llm_folder),
            "encoder": self._encoder(),
        }

    def _encoder(self) -> dict[str, Any]:
        """Of the encoder; of a hub name the files behind it, because a name stays the same under another revision."""
        location = resolve_encoder(self.source.model_config.encoder)
        if Path(location).exists():
            return fingerprint(Path(location))
        return {"name": str(location), "files": {path.name: fingerprint(path) for path in encoder_files(str(location))}}

    def of(self, **own: Any) -> dict[str, Any]:
        """What every part depends on, and what this one does."""
        return {"source": self.hashes, "versions": library_versions(("nemo_desta", "torch", "transformers")), "dtype": self.cfg.dtype, **own}

    def audio(self) -> dict[str, Any]:
        """Of ``audio``."""
        return self.of(onnx=library_versions(("onnx", "onnxscript")), limits=self.cfg.limits)

    def onnx_decoder(self) -> dict[str, Any]:
        """Of ``llm/onnx``."""
        return self.of(onnx=library_versions(("onnx", "onnxscript")))

    def trtllm(self) -> dict[str, Any]:
        """Of ``llm/trtllm_ckpt``."""
        cfg = self.cfg
        return self.of(tp=cfg.tp, pp=cfg.pp, quantization=cfg.quantization, limits=cfg.limits, calibration=self._calibration())

    def hf(self) -> dict[str, Any]:
        """Of ``llm/hf``."""
        return self.of(quantization=self.cfg.quantization, calibration=self._calibration())

    def _calibration(self) -> Any:
        """Of quantised parts alone: what they were calibrated with."""
        return None if self.cfg.quantization is None else {**plain(self.cfg.calibration), "clips": plain(self.cfg.clips)}
