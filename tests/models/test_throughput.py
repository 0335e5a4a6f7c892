"""Speed figures, against numbers counted by hand."""

import time

import torch
from transformers import LlamaConfig

from nemo_desta.models.metering import EncoderMeter
from nemo_desta.models.throughput import Cost, StepClock, peak_flops
from nemo_desta.parallel.memory import connector_parameters, encoder_parameters, layer_parameters, llm_parameters
from nemo_desta.parallel.plan import ParallelSizes
from nemo_desta.parallel.shapes import LARGE_V3, LLAMA_8B
from tests.test_config import load


def test_the_papers_model_has_eight_billion_parameters():
    assert llm_parameters(LLAMA_8B, ParallelSizes(), 0) == 8_030_261_248  # as published
    assert 0.6e9 < encoder_parameters(LARGE_V3) < 0.65e9
    assert connector_parameters(load("desta25").model.connector, 1280, 4096) == 131_540_224
    halves = [llm_parameters(LLAMA_8B, ParallelSizes(tp=2, pp=2), stage) for stage in range(2)]
    assert abs(2 * sum(halves) - 8_030_261_248) < 1e6


def test_flops_of_a_step_by_hand():
    tiny = LlamaConfig(vocab_size=100, hidden_size=8, intermediate_size=16, num_hidden_layers=3, num_attention_heads=2, num_key_value_heads=1)
    layer = 8 * 8 + 2 * 8 * 4 + 8 * 8 + 3 * 8 * 16 + 2 * 8
    assert layer_parameters(tiny, 1) == layer
    cost = Cost(token=4.0 * 3 * layer, label=4.0 * 100 * 8, frame=2.0 * 50)
    assert cost.flops(10, 4, 30) == 4 * 3 * layer * 10 + 4 * 800 * 4 + 100 * 30


def test_the_shares_of_a_steps_time_add_up():
    clock = StepClock()
    time.sleep(0.05)
    clock.data_arrived()
    time.sleep(0.05)
    times = clock.finish(encoder_seconds=0.02)
    assert 0.3 < times["data_wait"] < 0.6 and times["seconds"] >= 0.1
    assert abs(times["data_wait"] + times["encoder"] + times["llm_and_connector"] - 1) < 1e-6


def test_the_meter_starts_again_from_zero():
    meter = EncoderMeter()
    with meter.measure(torch.device("cpu")):
        time.sleep(0.02)
    meter.frames += 7
    frames, seconds = meter.take()
    assert frames == 7 and seconds >= 0.02 and meter.take() == (0, 0.0)


def test_the_peak_of_a_cpu_is_not_known():
    assert peak_flops(torch.device("cpu")) is None
