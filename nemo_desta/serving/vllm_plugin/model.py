"""The audio LLM inside vLLM: encoder and connector of this library beside vLLM's own LLM.

The tower is small beside the LLM and stands whole on every rank of a tensor-parallel group.

Shape suffixes: B clips, M mel bands, L mel frames, Q query slots, H LLM width, T tokens.
"""

from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from vllm.config import VllmConfig
from vllm.model_executor.models.interfaces import SupportsMultiModal, SupportsPP
from vllm.model_executor.models.module_mapping import MultiModelKeys
from vllm.model_executor.models.utils import init_vllm_registered_model, maybe_prefix
from vllm.multimodal import MULTIMODAL_REGISTRY

from nemo_desta.data.conversation import AUDIO_LOCATOR
from nemo_desta.modules.perception import Perception
from nemo_desta.serving.vllm_plugin.config import build_perception
from nemo_desta.serving.vllm_plugin.processing import NemoDestaDummyInputs, NemoDestaInfo, NemoDestaProcessor

_TOWER = "perception."


@MULTIMODAL_REGISTRY.register_processor(NemoDestaProcessor, info=NemoDestaInfo, dummy_inputs=NemoDestaDummyInputs)
class NemoDestaForConditionalGeneration(nn.Module, SupportsMultiModal, SupportsPP):
    """The LLM, with the clips' vectors put into their slots by vLLM."""

    def __init__(self, *, vllm_config: VllmConfig, prefix: str = "") -> None:
        super().__init__()
        self.config = vllm_config.model_config.hf_config
        text = self.config.text_config
        with self._mark_language_model(vllm_config):  # type: ignore[operator]  # where vLLM is not installed its mixin has no type
            self.language_model = init_vllm_registered_model(
                vllm_config=vllm_config, hf_config=text, prefix=maybe_prefix(prefix, "language_model"), architectures=text.architectures
            )
        with self._mark_tower_model(vllm_config, {"audio"}):  # type: ignore[operator]
            self.perception = build_perception(self.config.nemo_desta["perception"], text.hidden_size)
        self.make_empty_intermediate_tensors = self.language_model.make_empty_intermediate_tensors

    @classmethod
    def get_placeholder_str(cls, modality: str, i: int) -> str | None:
        """Of chat templates that take plain text; the exported one takes the parts themselves."""
        return AUDIO_LOCATOR if modality.startswith("audio") else None

    @torch.inference_mode()
    def embed_multimodal(self, **kwargs: Any) -> list[Tensor]:
        """Vectors_QH of the clips of all requests in this step."""
        rows = kwargs.get("input_features")
        if rows is None or not len(rows):
            return []
        lengths_B = torch.as_tensor(kwargs["lengths"]).flatten().cpu()
        device = self.perception.connector.layer_weights.device
        features_BML = torch.zeros(len(rows), rows[0].shape[-2], int(max(row.shape[-1] for row in rows)), device=device)
        for whole_ML, row_ML in zip(features_BML, rows, strict=True):
            whole_ML[:, : row_ML.shape[-1]] = row_ML.reshape(row_ML.shape[-2:])
        return list(self.perception(features_BML, lengths_B))

    def forward(
        self, input_ids: Tensor | None, positions: Tensor, intermediate_tensors: Any = None, inputs_embeds: Tensor | None = None, **_: Any
    ) -> Tensor | Any:
        """One step of vLLM's scheduler; hidden states [T, H]."""
        if intermediate_tensors is not None:
            inputs_embeds = None
        return self.language_model(input_ids, positions, intermediate_tensors, inputs_embeds=inputs_embeds)

    def compute_logits(self, hidden_TH: Tensor) -> Tensor | None:
        """Of the LLM."""
        logits: Tensor | None = self.language_model.compute_logits(hidden_TH)
        return logits

    def get_mm_mapping(self) -> MultiModelKeys:
        """Prefixes of the parts, for vLLM's LoRA."""
        return MultiModelKeys.from_string_field(language_model="language_model", connector=_TOWER + "connector", tower_model=_TOWER + "encoder")

    def load_weights(self, weights: Iterable[tuple[str, Tensor]]) -> set[str]:
        """The LLM's tensors under their own names, the tower's below ``perception``.

        Raises:
            RuntimeError: tensors of the tower are missing, too many or of another shape.
        """
        tower: dict[str, Tensor] = {}

        def llm() -> Iterator[tuple[str, Tensor]]:
            for name, tensor in weights:
                if name.startswith(_TOWER):
                    tower[name.removeprefix(_TOWER)] = tensor
                else:
                    yield name, tensor

        loaded = {f"language_model.{name}" for name in self.language_model.load_weights(llm())}
        if isinstance(self.perception, Perception):  # vLLM leaves it out with --limit-mm-per-prompt audio=0
            self.perception.load_state_dict(tower)
            loaded |= {_TOWER + name for name in tower}
        return loaded
