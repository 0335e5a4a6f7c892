"""A setting that cannot be obeyed is refused by both ways of running before anything is read, claimed or written, so that the corrected command runs."""

import sys
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from nemo_desta.config import DestaConfig, GenerationConfig, ModelConfig, RayConfig, VllmConfig
from nemo_desta.generation import ray_job, runner
from nemo_desta.generation.checks import check_settings
from nemo_desta.generation.ray_job import generate_on_ray
from nemo_desta.generation.runner import generate_targets
from tests.generation.clips import config
from tests.generation.test_runner import Parrot

MISTAKES: list[tuple[dict[str, Any], str]] = [
    ({"engine": "none"}, r"generation.engine='none' is unknown"),
    ({"multi_turn_fraction": 30.0}, r"generation.multi_turn_fraction=30.0 is outside \[0, 1\]: give a share"),
    ({"multi_turn_fraction": -0.1}, r"generation.multi_turn_fraction=-0.1 is outside"),
    ({"multi_audio_fraction": 1.5}, r"generation.multi_audio_fraction=1.5 is outside"),
    ({"attribute_prompt_fraction": 2.0}, r"generation.attribute_prompt_fraction=2.0 is outside"),
    ({"rows": -1}, r"generation.rows=-1 and .* must not be negative"),
    ({"prompts_per_cut": -1}, r"generation.prompts_per_cut=-1 must not be negative"),
    ({"temperature": -1.0}, r"generation.temperature=-1.0 is negative"),
    ({"top_p": 0.0}, r"generation.top_p=0.0 is outside"),
    ({"max_new_tokens": 0}, r"generation.max_new_tokens=0 must be at least 1"),
    ({"engine": "vllm", "vllm": VllmConfig(tensor_parallel_size=0)}, r"tensor_parallel_size=0 must be at least 1"),
]


def on_ray(c: DestaConfig) -> Path:
    c.ray.address = "local"
    return generate_on_ray(c)


def in_process(c: DestaConfig) -> Path:
    return generate_targets(c, engine=Parrot(fail_at=0))


def ray_config(**generation: Any) -> DestaConfig:
    return DestaConfig(name="toy", run_dir="unused", model=ModelConfig(llm="none"), generation=GenerationConfig(**generation), ray=RayConfig(address="local"))


@pytest.mark.parametrize("generate", [in_process, on_ray])
@pytest.mark.parametrize(("mistake", "message"), MISTAKES, ids=[f"{next(reversed(mistake))}-{n}" for n, (mistake, _) in enumerate(MISTAKES)])
def test_a_mistake_is_found_before_anything_is_read_or_written(
    tmp_path: Path, generate: Callable[[DestaConfig], Path], mistake: dict[str, Any], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    c = config(tmp_path, **mistake)
    for module, name in ((runner, "read_cuts"), (runner, "pool_of"), (ray_job, "pool_of"), (ray_job, "input_files")):
        monkeypatch.setattr(module, name, lambda *arguments: pytest.fail("something was read"))
    with pytest.raises(ValueError, match=message):
        generate(c)
    assert not (tmp_path / "targets").exists()


def test_the_corrected_command_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runner, "model_revision", lambda reference: reference)
    engine = Parrot()
    settings = {"rows": 0, "prompts_per_cut": 2, "drop_rejected": False}
    with pytest.raises(ValueError, match="multi_turn_fraction=30"):
        generate_targets(config(tmp_path, multi_turn_fraction=30, **settings), engine=engine)
    assert engine.calls == 0
    assert generate_targets(config(tmp_path, multi_turn_fraction=0.3, **settings), engine=engine).exists()


def test_vllm_gets_no_more_gpus_than_its_worker_has(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def asked(size: int, gpus: float, engine: str = "vllm") -> None:
        c = config(tmp_path, engine=engine, vllm=VllmConfig(tensor_parallel_size=size))
        c.ray.gpus_per_worker = gpus
        on_ray(c)

    def reading(source: Path) -> list[Path]:
        raise FileNotFoundError("the input is read")

    monkeypatch.setattr(ray_job, "input_files", reading)
    for gpus in (0.0, 0.5, 2.0):
        message = rf"tensor_parallel_size=4 with ray.gpus_per_worker={gpus:g}: set ray.gpus_per_worker=4, or lower tensor_parallel_size"
        with pytest.raises(ValueError, match=message):
            asked(4, gpus)
    for size, gpus in ((4, 4.0), (2, 4.0), (1, 1.0), (1, 0.5), (1, 0.0)):
        with pytest.raises(FileNotFoundError, match="the input is read"):
            asked(size, gpus)
    with pytest.raises(FileNotFoundError, match="the input is read"):
        asked(4, 0.0, engine="openai")
    check_settings(GenerationConfig(engine="vllm", vllm=VllmConfig(tensor_parallel_size=8)))  # without Ray all GPUs are its own


def test_engines_do_not_share_a_gpu_by_mistake() -> None:
    """Ray leaves the GPUs in sight of a worker that was given none."""
    gpus = {"CPU": 8.0, "GPU": 2.0}
    for engine, size, each in (("transformers", 4, 1), ("vllm", 1, 1), ("vllm", 4, 4)):
        c = ray_config(engine=engine, vllm=VllmConfig(tensor_parallel_size=size))
        message = rf"gpus_per_worker=0 with generation.engine={engine} on a cluster with 2 GPUs.* set ray.gpus_per_worker={each}, or hide"
        with pytest.raises(ValueError, match=message):
            ray_job._check_gpus(c, gpus)
        ray_job._check_gpus(c, {"CPU": 8.0})
        c.ray.gpus_per_worker = 0.5
        ray_job._check_gpus(c, gpus)
    ray_job._check_gpus(ray_config(engine="openai"), gpus)
    alone = ray_config(engine="vllm")
    alone.ray.workers, alone.ray.gpus_per_worker = 1, 0.0
    ray_job._check_gpus(alone, gpus)  # one engine may take the first GPU


def test_the_gpus_of_a_cluster_are_counted_before_its_input_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    there = types.SimpleNamespace(is_initialized=lambda: True, cluster_resources=lambda: {"CPU": 8.0, "GPU": 2.0})
    monkeypatch.setitem(sys.modules, "ray", there)
    monkeypatch.setattr(ray_job, "_survey", lambda files, size, whole: pytest.fail("the input was read"))
    with pytest.raises(ValueError, match=r"ray.gpus_per_worker=0 with generation.engine=transformers"):
        on_ray(config(tmp_path))
    assert not (tmp_path / "targets" / "plan.json").exists()


def test_workers_without_vllm_are_found_out_before_a_plan_names_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def remote(asked: Any) -> Any:
        return types.SimpleNamespace(options=lambda num_cpus: types.SimpleNamespace(remote=asked))

    there = types.SimpleNamespace(is_initialized=lambda: True, cluster_resources=lambda: {"CPU": 8.0}, remote=remote, get=lambda answer: answer)
    monkeypatch.setitem(sys.modules, "ray", there)
    monkeypatch.setattr(ray_job, "_survey", lambda files, size, whole: pytest.fail("the input was read"))
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"the Python of Ray's workers has no vLLM: start Ray from an environment of tools/vllm_env\.sh"):
        on_ray(config(tmp_path, engine="vllm"))
    assert not (tmp_path / "targets" / "plan.json").exists()
