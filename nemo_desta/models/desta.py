"""The model: sound -> taps -> query vectors, spliced into the token embeddings of a frozen LLM (paper section III).

Single-device maths only. Shape legend: C clips, N taps, F encoder frames, D encoder width, Q query slots, T tokens, P audio spans, H LLM width.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self, cast

import torch
from torch import Tensor, nn

from nemo_desta.backbones.base import Backbone
from nemo_desta.checkpoint import CheckpointConfig, load_into, load_weights, read_config, save_checkpoint, trainable_state
from nemo_desta.config import ModelConfig
from nemo_desta.data.conversation import AudioLayout, Tokenizer
from nemo_desta.data.dataset import Clip, MicroBatch
from nemo_desta.data.packing import TokenPack
from nemo_desta.data.supervision import Message
from nemo_desta.data.transfer import to_device
from nemo_desta.models import build
from nemo_desta.models.inference import Answerer, GenerationOutput
from nemo_desta.models.metering import EncoderMeter
from nemo_desta.modules.canary_transcriber import CanaryTranscriber
from nemo_desta.modules.encoder import similar_lengths
from nemo_desta.modules.perception import Perception
from nemo_desta.modules.transcriber import WhisperTranscriber
from nemo_desta.parallel.topology import Topology, gather_rows


class DestaModel(nn.Module):
    """Encoder, connector and backbone.

    Args:
        perception: encoder and connector; None on later pipeline stages, which have neither.
        backbone: the frozen LLM, or this process's part of it.
        tokenizer: of the LLM.
        layout: how audio stands in a sequence.
        config: what the checkpoint's ``config.json`` says.
        topology: where this process stands among those that share the model; None = it has the whole model.
    """

    def __init__(
        self,
        perception: Perception | None,
        backbone: Backbone,
        tokenizer: Tokenizer,
        layout: AudioLayout,
        config: CheckpointConfig,
        topology: Topology | None = None,
    ) -> None:
        super().__init__()
        self.perception = cast(Perception, perception)  # later stages never hear
        self.topology = topology
        self.meter = EncoderMeter()
        self.backbone = backbone
        self.tokenizer, self.layout, self.config = tokenizer, layout, config
        self.transcriber: WhisperTranscriber | CanaryTranscriber | None = None
        self.taps_cache_dtype: torch.dtype | None = None  # taps are rounded to this before use, so that cached and fresh ones are equal

    @classmethod
    def from_config(
        cls, cfg: ModelConfig, *, max_transcript_tokens: int | None = 100, topology: Topology | None = None, **options: bool
    ) -> Self:
        """A model with pretrained encoder and LLM and a fresh connector.

        Args:
            topology, options: see `build.parts`.

        Raises:
            ValueError: a model reference or the placeholder token does not fit.
        """
        return cls(*build.parts(cfg, max_transcript_tokens=max_transcript_tokens, topology=topology, **options), topology)

    @classmethod
    def from_pretrained(cls, ref: str | Path, **overrides: Any) -> Self:
        """A trained model from a checkpoint directory or a hub id.

        Args:
            ref: directory with ``config.json`` and ``model.safetensors``, or ``owner/name`` on the hub.
            overrides: fields of `ModelConfig` to change (``llm``, ``encoder``, ``pad_to``, ``llm_precision``).

        Raises:
            ValueError: the directory is no checkpoint or its tensors do not fit.
        """
        folder = build.locate_checkpoint(ref)
        cfg, limit = build.model_config(read_config(folder), overrides)
        model = cls(*build.parts(cfg, max_transcript_tokens=limit))
        load_into(model, load_weights(folder))
        return model.eval()

    def save_pretrained(self, folder: str | Path) -> None:
        """Write a checkpoint directory that this class and the reference code read."""
        save_checkpoint(Path(folder), self.config, trainable_state(self))

    @property
    def device(self) -> torch.device:
        return next(self.parameters()).device

    def trainable_parameters(self) -> list[nn.Parameter]:
        """What the optimiser moves: the connector, and LoRA adapters if there are any."""
        return [p for p in self.parameters() if p.requires_grad]

    def forward(self, batch: MicroBatch) -> tuple[Tensor, int]:
        """(sum of the token losses, number of tokens with a loss) of one micro-batch."""
        audio_CQH = self.hear(batch.clips) if batch.clips else None
        return self.backbone.loss(self.splice(batch.tokens, audio_CQH), batch.tokens)

    def splice(self, pack: TokenPack, audio_CQH: Tensor | None) -> Tensor:
        """Token embeddings [T, H] of a pack with the clips' vectors in their slots. Gradients flow to the vectors only.

        Where no vector wants a gradient (a pack without sound, or with that of other processes only), the embeddings do: the way back through the layers is the
        same for every pack, on all processes.
        """
        embeds_TH = self.backbone.embed(pack.input_ids_T).detach()
        if audio_CQH is not None and pack.slots_PQ.numel():
            vectors_PQH = audio_CQH[pack.clip_of_span_P].to(embeds_TH.dtype)
            embeds_TH = embeds_TH.index_copy(0, pack.slots_PQ.flatten(), vectors_PQH.flatten(0, 1))
        return embeds_TH if embeds_TH.requires_grad else embeds_TH.requires_grad_(torch.is_grad_enabled())

    def hear(self, clips: Sequence[Clip]) -> Tensor:
        """Vectors [C, Q, H] of clips, from their taps where these are known, else from their samples.

        Clips of similar length go through the connector together, so that little of its work is spent on padding. Tensor-parallel processes hear a share
        of the clips each, and get the vectors of all.
        """
        shards = self.topology.sizes.tp if self.topology is not None else 1
        return self._hear(clips) if shards == 1 else self._hear_together(clips, shards)

    def _hear_together(self, clips: Sequence[Clip], shards: int) -> Tensor:
        assert self.topology is not None
        shares = [own_share(len(clips), shard, shards) for shard in range(shards)]
        own = shares[self.topology.shard]
        connector = self.perception.connector
        nothing = torch.zeros(0, self.layout.num_queries, self.backbone.hidden_size, device=self.device, dtype=connector.layer_weights.dtype)
        vectors = self._hear([clips[i] for i in own]).to(nothing.dtype) if own else nothing
        gathered = gather_rows(vectors, [len(share) for share in shares], self.topology.tensor_group)
        order = torch.tensor([i for share in shares for i in share], device=gathered.device)
        return gathered[order.argsort()]

    def _hear(self, clips: Sequence[Clip]) -> Tensor:
        taps = self.taps(clips)
        groups = similar_lengths([tap.shape[1] for tap in taps])
        vectors = torch.cat([self.perception.connect(*pad_taps([taps[i] for i in group], self.device)) for group in groups])
        order = torch.tensor([i for group in groups for i in group], device=vectors.device)
        return vectors[order.argsort()]

    @torch.no_grad()
    def taps(self, clips: Sequence[Clip]) -> list[Tensor]:
        """Taps [N, F_i, D] of each clip, real frames only (all 1500 where the encoder pads to 30 s)."""
        taps = [clip.taps_NTD for clip in clips]
        unheard = [i for i, tap in enumerate(taps) if tap is None]
        if self.taps_cache_dtype is not None:  # one by one: what goes into the cache must not depend on its neighbours in a batch
            fresh = [self.encode_clip(clips[i].samples_T) for i in unheard]
        else:
            fresh = self._encode([clips[i].samples_T for i in unheard]) if unheard else []
        for i, tap in zip(unheard, fresh, strict=True):
            taps[i] = tap
        return [tap for tap in taps if tap is not None]

    @torch.no_grad()
    def encode_clip(self, samples_T: Tensor | None) -> Tensor:
        """Taps [N, F, D] of one clip, rounded as the cache rounds them."""
        tap = self._encode([samples_T])[0]
        return tap.to(self.taps_cache_dtype or tap.dtype)

    def _encode(self, samples: Sequence[Tensor | None]) -> list[Tensor]:
        assert all(s is not None for s in samples), "a clip with neither samples nor taps"
        encoder = self.perception.encoder
        with self.meter.measure(self.device):
            features_CMF, lengths_C = encoder.featurizer([s for s in samples if s is not None], encoder.pad_to)
            taps_NCFD, mask_CF = encoder.encode(to_device(features_CMF, self.device), lengths_C)
        self.meter.frames += taps_NCFD.shape[1] * taps_NCFD.shape[2]
        frames = [taps_NCFD.shape[2]] * len(samples) if mask_CF is None else mask_CF.sum(dim=1).tolist()
        return [taps_NCFD[:, i, :f] for i, f in enumerate(frames)]

    def generate(
        self,
        messages: Sequence[Message] | Sequence[Sequence[Message]],
        *,
        max_new_tokens: int = 512,
        do_sample: bool = False,
        temperature: float = 1.0,
        top_p: float = 1.0,
        transcribe: bool = True,
    ) -> list[GenerationOutput]:
        """Answer one conversation or a batch of them; see `nemo_desta.models.inference`."""
        sampling = {"max_new_tokens": max_new_tokens, "do_sample": do_sample, "temperature": temperature, "top_p": top_p}
        return Answerer(self).answer(messages, transcribe=transcribe, **sampling)


def own_share(clips: int, shard: int, shards: int) -> range:
    """Numbers of the clips that one of several tensor-parallel processes hears."""
    return range(shard, clips, shards)


def pad_taps(taps: Sequence[Tensor], device: torch.device) -> tuple[Tensor, Tensor | None]:
    """Stack taps [N, F_i, D] to [N, C, F, D] with a mask, or without one where all are equally long."""
    frames = [t.shape[1] for t in taps]
    if len(set(frames)) == 1:
        return to_device(torch.stack(list(taps), dim=1), device), None
    padded = taps[0].new_zeros(taps[0].shape[0], len(taps), max(frames), taps[0].shape[2])
    for i, tap in enumerate(taps):
        padded[:, i, : tap.shape[1]] = tap
    mask = torch.arange(max(frames))[None, :] < torch.tensor(frames)[:, None]
    return to_device(padded, device), to_device(mask, device)
