"""A bundle on ONNX Runtime: the audio tower, and the small decoder with its KV cache. Needs NumPy and onnxruntime, no PyTorch.

The decoder is the plainest possible runtime (greedy, one batch at a time): for workstations, demonstrations and parity checks, not a server's engine.

Shape suffixes: B rows, T tokens, S new tokens, P past tokens, C clips, Q query slots, H width, K key-value heads, D head width, V vocabulary.
"""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from nemo_desta.export.features import FeatureConfig, Features, graph_input

if TYPE_CHECKING:
    import onnxruntime

Array = NDArray[Any]
CPU = ("CPUExecutionProvider",)


@dataclass(frozen=True)
class Prompt:
    """A rendered conversation: what `nemo_desta.data.conversation.render` gives, as far as a runtime needs it.

    Attributes:
        input_ids: token ids, placeholders at the query slots.
        audio_spans: (start, length) of each clip's slots.
        clips: numbers of the clips, in the order of the spans.
    """

    input_ids: Sequence[int]
    audio_spans: Sequence[tuple[int, int]] = ()
    clips: Sequence[int] = ()


def open_session(path: Path, providers: Sequence[Any] = CPU, threads: int = 0) -> "onnxruntime.InferenceSession":
    """An ONNX Runtime session.

    Raises:
        ValueError: the file is missing.
    """
    import onnxruntime

    if not path.is_file():
        raise ValueError(f"{path} is missing: this bundle was exported without it")
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = threads
    return onnxruntime.InferenceSession(str(path), options, providers=list(providers))


class AudioTower:
    """Clips to vectors.

    Args:
        bundle: an exported bundle.
        providers: of ONNX Runtime.
        threads: of ONNX Runtime; 0 = its own choice.

    Raises:
        ValueError: the bundle has no audio tower.
    """

    def __init__(self, bundle: str | Path, *, providers: Sequence[Any] = CPU, threads: int = 0) -> None:
        folder = Path(bundle) / "audio"
        self.session = open_session(folder / "model.onnx", providers, threads)
        self.features = Features(FeatureConfig.load(folder / "preprocessor_config.json"))
        self.contract = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        self._inputs = [x.name for x in self.session.get_inputs()]

    def __call__(self, clips: Sequence[Array]) -> Array:
        """16 kHz mono clips in [-1, 1] to embeds_CQH in the tower's format."""
        return self.encode(*self.features(clips))

    def encode(self, features_BML: Array, lengths_B: Array) -> Array:
        """Features of :class:`Features` to embeds_BQH."""
        feed = {"input_features": graph_input(features_BML), "lengths": np.asarray(lengths_B, np.int64)}
        (embeds,) = self.session.run(None, {name: feed[name] for name in self._inputs})
        return np.asarray(embeds)


class OnnxDecoder:
    """The LLM with its KV cache as inputs and outputs.

    Args:
        bundle: an exported bundle with ``llm/onnx``.
        providers: of ONNX Runtime.
        threads: of ONNX Runtime; 0 = its own choice.
        session: what runs the graph instead of ONNX Runtime.

    Raises:
        ValueError: the bundle has no ONNX decoder.
    """

    def __init__(self, bundle: str | Path, *, providers: Sequence[Any] = CPU, threads: int = 0, session: Any = None) -> None:
        folder = Path(bundle) / "llm" / "onnx"
        self.session: Any = open_session(folder / "model.onnx", providers, threads) if session is None else session
        self.config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        self.embedding_VH: Array = np.load(folder / "embed_tokens.npy", mmap_mode="r")

    def embed(self, prompts: Sequence[Prompt], audio_CQH: Array | None) -> tuple[Array, Array]:
        """Left-padded embeddings [B, T, H] with the clips' vectors in their slots, and the attention mask [B, T] (int64)."""
        width = max(len(p.input_ids) for p in prompts)
        embeds = np.zeros((len(prompts), width, self.embedding_VH.shape[1]), self.embedding_VH.dtype)
        mask = np.zeros((len(prompts), width), np.int64)
        for row, prompt in enumerate(prompts):
            pad = width - len(prompt.input_ids)
            embeds[row, pad:] = self.embedding_VH[np.asarray(prompt.input_ids)]
            mask[row, pad:] = 1
            for (start, length), clip in zip(prompt.audio_spans, prompt.clips, strict=True):
                assert audio_CQH is not None
                embeds[row, pad + start : pad + start + length] = audio_CQH[clip]
        return embeds, mask

    def greedy(self, embeds_BTH: Array, mask_BT: Array, max_new_tokens: int, stop_ids: Sequence[int] | None = None) -> list[list[int]]:
        """Continuations, each cut behind its first stop token.

        Args:
            embeds_BTH: of :meth:`embed`.
            mask_BT: of :meth:`embed`.
            max_new_tokens: limit.
            stop_ids: end-of-turn tokens; None = the LLM's own.
        """
        answers: list[list[int]] = [[] for _ in embeds_BTH]
        for tokens in self.stream(embeds_BTH, mask_BT, max_new_tokens, stop_ids):
            for answer, token in zip(answers, tokens, strict=True):
                if token is not None:
                    answer.append(token)
        return answers

    def stream(self, embeds_BTH: Array, mask_BT: Array, max_new_tokens: int, stop_ids: Sequence[int] | None = None) -> Iterator[list[int | None]]:
        """The same token by token: in each step one of every row, None where the row has ended."""
        stops = set(self.config["stop_ids"] if stop_ids is None else stop_ids)
        running = [True] * len(embeds_BTH)
        logits_BV, past = self.step(embeds_BTH, mask_BT, None)
        for count in range(1, max_new_tokens + 1):
            tokens_B = logits_BV.argmax(axis=-1)
            yield [token if alive else None for token, alive in zip(tokens_B.tolist(), running, strict=True)]
            running = [alive and token not in stops for alive, token in zip(running, tokens_B.tolist(), strict=True)]
            if not any(running) or count == max_new_tokens:
                return
            mask_BT = np.concatenate([mask_BT, np.ones((len(running), 1), np.int64)], axis=1)
            logits_BV, past = self.step(self.embedding_VH[tokens_B][:, None], mask_BT, past)

    def step(self, embeds_BSH: Array, mask_BT: Array, past: list[Array] | None) -> tuple[Array, list[Array]]:
        """Run the new tokens: logits [B, V] (float32) behind the last of them, and the keys and values of all tokens so far."""
        c = self.config
        if past is None:
            past = [np.zeros((len(embeds_BSH), c["num_key_value_heads"], 0, c["head_dim"]), embeds_BSH.dtype)] * (2 * c["num_hidden_layers"])
        positions_BT = np.clip(np.cumsum(mask_BT, axis=1) - 1, 0, None)
        feed = [embeds_BSH, mask_BT, positions_BT[:, -embeds_BSH.shape[1] :], *past]
        logits_B1V, *present = self.session.run(None, dict(zip([x.name for x in self.session.get_inputs()], feed, strict=True)))
        return np.asarray(logits_B1V)[:, -1].astype(np.float32), present


class OnnxModel:
    """Audio tower and decoder together: clips and rendered prompts to tokens."""

    def __init__(self, bundle: str | Path, *, providers: Sequence[Any] = CPU, threads: int = 0) -> None:
        self.tower = AudioTower(bundle, providers=providers, threads=threads)
        self.decoder = OnnxDecoder(bundle, providers=providers, threads=threads)

    def generate(self, prompts: Sequence[Prompt], clips: Sequence[Array] = (), *, max_new_tokens: int = 64) -> list[list[int]]:
        """Greedy answers to a batch of prompts.

        Args:
            prompts: rendered conversations that name their clips by number.
            clips: 16 kHz mono samples.
            max_new_tokens: of an answer.
        """
        audio_CQH = self.tower(clips) if len(clips) else None
        embeds, mask = self.decoder.embed(prompts, audio_CQH)
        return self.decoder.greedy(embeds, mask, max_new_tokens)
