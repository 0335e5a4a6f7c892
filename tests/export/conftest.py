"""The bundle that several files look at."""

import pytest


@pytest.fixture(scope="session")
def made(tmp_path_factory):
    """(settings, bundle) of one whole export in fp32, over tp 2 x pp 2."""
    from nemo_desta.export.pipeline import export  # needs the export extra, which the files that ask for this have looked for
    from nemo_desta.export.settings import Dtype, ExportConfig, LimitsConfig, Target

    targets = [Target.onnx, Target.onnx_decoder, Target.trtllm, Target.trtllm_pytorch, Target.triton, Target.hf]
    limits = LimitsConfig(max_batch_size=4, max_audios=2, max_input_len=128, max_seq_len=256)
    output = tmp_path_factory.mktemp("export") / "bundle"
    cfg = ExportConfig(checkpoint="tiny-random", output=str(output), targets=targets, dtype=Dtype.float32, tp=2, pp=2, limits=limits)
    export(cfg)
    return cfg, output
