"""Reading a Hugging Face checkpoint range by range, and writing one from the stages of all processes.

No process ever holds more than its own part and one range: safetensors files are mapped, and only the asked rows or columns are copied.
"""

import json
import logging
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Protocol, Self

import torch
import torch.distributed as dist
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from nemo_desta.parallel.weights import Geometry, Piece, expected_sources, pieces, rule_of

logger = logging.getLogger(__name__)
INDEX, SINGLE = "model.safetensors.index.json", "model.safetensors"


class Reader(Protocol):
    """Somewhere that Hugging Face tensors lie."""

    def shape(self, name: str) -> tuple[int, ...]:
        """Shape of a tensor; ValueError where there is none of this name."""
        ...

    def read(self, piece: Piece) -> Tensor:
        """A range of a tensor."""
        ...


class StateReader:
    """Tensors in memory."""

    def __init__(self, state: Mapping[str, Tensor]) -> None:
        self.state = state

    def shape(self, name: str) -> tuple[int, ...]:
        if name not in self.state:
            raise ValueError(f"the model has no tensor {name}")
        return tuple(self.state[name].shape)

    def read(self, piece: Piece) -> Tensor:
        return self.state[piece.source].narrow(piece.dim, piece.start, piece.stop - piece.start)


class FolderReader:
    """A folder with ``model.safetensors``, or with several files and their index. Use as a context: the files stay open in between."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.file_of = _files(folder)
        self._stack, self._open = ExitStack(), dict[str, Any]()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()
        self._open.clear()

    def _slice(self, name: str) -> Any:
        file = self.file_of.get(name)
        if file is None:
            raise ValueError(f"{self.folder} has no tensor {name}: it is not a checkpoint of this kind of model")
        if file not in self._open:
            try:
                self._open[file] = self._stack.enter_context(safe_open(self.folder / file, framework="pt"))
            except (OSError, SafetensorError) as error:
                raise ValueError(f"cannot read {self.folder / file}: {error}") from error
        return self._open[file].get_slice(name)

    def shape(self, name: str) -> tuple[int, ...]:
        return tuple(self._slice(name).get_shape())

    def read(self, piece: Piece) -> Tensor:
        part = self._slice(piece.source)
        wanted: Tensor = part[piece.start : piece.stop] if piece.dim == 0 else part[:, piece.start : piece.stop]
        return wanted


def _files(folder: Path) -> dict[str, str]:
    """Tensor name -> file."""
    index = folder / INDEX
    if index.is_file():
        weights: dict[str, str] = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
        return weights
    if not (folder / SINGLE).is_file():
        raise ValueError(f"{folder} has neither {SINGLE} nor {INDEX}: the megatron backbone reads safetensors")
    with safe_open(folder / SINGLE, framework="pt") as file:
        return dict.fromkeys(file.keys(), SINGLE)


@torch.no_grad()
def load_stage(stage: nn.Module, layers: Sequence[int], config: Any, geometry: Geometry, reader: Reader) -> None:
    """Fill the parameters of one stage.

    Args:
        stage: a `GPTModel` (or what has its parameter names).
        layers: numbers in the whole model of its layers.
        config: of the Hugging Face model.

    Raises:
        ValueError: a tensor is missing or has another shape than the config says; the message names it.
    """
    everything = Geometry.of(config, 1, 0)
    for name, parameter in stage.named_parameters():
        parts = pieces(name, list(layers), geometry, tied=config.tie_word_embeddings)
        whole = {part.source: part.stop for part in pieces(name, list(layers), everything, tied=config.tie_word_embeddings)}
        if sum((p.stop - p.start) for p in parts) < parameter.shape[parts[0].dim if parts else 0]:
            parameter.zero_()
        for part in parts:
            _check(reader.shape(part.source), part, parameter, name, whole[part.source])
            parameter.narrow(part.dim, part.at, part.stop - part.start).copy_(reader.read(part))


def _check(shape: tuple[int, ...], part: Piece, parameter: Tensor, name: str, whole: int) -> None:
    other = [size for dim, size in enumerate(parameter.shape) if dim != part.dim]
    if [size for dim, size in enumerate(shape) if dim != part.dim] != other or shape[part.dim] != whole:
        raise ValueError(
            f"{part.source} has the shape {list(shape)} in the checkpoint, which does not fit the model's config: {name} wants "
            f"{whole} along dimension {part.dim} of it, and {other} along the other: are config.json and the weights of the same model?"
        )


def export_stages(
    stages: Sequence[tuple[nn.Module, Sequence[int]]], config: Any, geometry: Geometry, folder: Path
) -> None:
    """Write the whole model as a Hugging Face checkpoint, a file by tensor, from rank 0, which never holds more than one whole tensor. All processes call this.

    Args:
        stages: this process's parts of the model, with the numbers of their layers.
        config: of the Hugging Face model; saved beside the weights.
        geometry: of this process.
        folder: where rank 0 writes.
    """
    own: dict[str, list[tuple[Piece, Tensor]]] = {}
    for stage, layers in stages:
        for name, parameter in stage.named_parameters():
            if ".adapters." in name:
                continue
            rule, _ = rule_of(name)
            if rule.replicated and geometry.shard:
                continue
            if config.tie_word_embeddings and rule.megatron == "output_layer.weight":
                continue
            for part in pieces(name, list(layers), geometry, tied=config.tie_word_embeddings):
                own.setdefault(part.source, []).append((part, parameter.detach().narrow(part.dim, part.at, part.stop - part.start)))
    weight_map, total = {}, 0
    names = list(expected_sources(config))
    for number, name in enumerate(names):
        tensor = _assemble([(part, values.cpu()) for part, values in own.get(name, [])])
        if tensor is None:
            continue
        file = f"model-{number + 1:05d}-of-{len(names):05d}.safetensors"
        folder.mkdir(parents=True, exist_ok=True)
        save_file({name: tensor.contiguous()}, folder / file, metadata={"format": "pt"})
        weight_map[name], total = file, total + tensor.numel() * tensor.element_size()
    if weight_map:
        (folder / INDEX).write_text(json.dumps({"metadata": {"total_size": total}, "weight_map": weight_map}, indent=1) + "\n", encoding="utf-8")
        config.save_pretrained(folder)


def _assemble(own: list[tuple[Piece, Tensor]]) -> Tensor | None:
    """A whole tensor on rank 0 from the ranges of all processes; None elsewhere."""
    parts: list[Any] = [own]
    if dist.is_initialized() and dist.get_world_size() > 1:
        gathered: list[Any] | None = [None] * dist.get_world_size() if dist.get_rank() == 0 else None
        dist.gather_object(own, gathered, dst=0)
        if gathered is None:
            return None
        parts = gathered
    ranges = {(part.start, part.stop): (part, values) for of_process in parts for part, values in of_process}  # copies of the model hold the same ranges
    assert ranges, "a tensor that no process holds"
    ordered = [ranges[key] for key in sorted(ranges)]
    return torch.cat([values for _, values in ordered], dim=ordered[0][0].dim)
