"""Check an exported bundle against what the PyTorch model said when it was exported.

    python tools/verify_bundle.py BUNDLE
    python tools/verify_bundle.py BUNDLE --gpu                          # also runs the engines of tower and decoder
    python tools/verify_bundle.py BUNDLE --gpu --trtllm-engine DIR      # also TensorRT-LLM engines (in its own environment)

--gpu writes parity_gpu and gpu_validated into the manifest: true where every engine of the bundle ran here and every one of these checks holds, a checkpoint
of TensorRT-LLM counting as an engine. Without an engine it stays false.

Exit code 0: every check that could be made holds, 1: one does not, 2: the bundle cannot be read, or --gpu finds no GPU or nothing to run.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from nemo_desta.export.bundle import read_manifest, write_manifest
from nemo_desta.export.verify import Check, as_manifest, verify

WORDS = {True: "ok", False: "FAILED", None: "not checked"}


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line; the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 2, 3, 5], help="batch sizes of the audio tower (default: 1 2 3 5)")
    parser.add_argument("--gpu", action="store_true", help="also run the engines on this machine's GPU")
    parser.add_argument("--trtllm-engine", type=Path, help="with --gpu: engines that build_engine.sh wrote")
    options = parser.parse_args(arguments)
    try:
        checks = _said(verify(options.bundle, options.batches))
        if options.gpu and checks[0].ok:
            checks += _said(_gpu_checks(options.bundle, options.trtllm_engine))
    except (OSError, ValueError) as error:
        print(f"verify_bundle: {error}", file=sys.stderr)
        return 2
    return 1 if any(check.ok is False for check in checks) else 0


def _said(checks: list[Check]) -> list[Check]:
    for check in checks:
        print(f"{WORDS[check.ok]:12} {check.name}: {check.detail}", flush=True)
    return checks


def _gpu_checks(bundle: Path, engine: Path | None) -> list[Check]:
    """Run the engines, and record the result in the manifest."""
    from nemo_desta.export.verify_gpu import gpu_checks, validated

    checks = gpu_checks(bundle, engine)
    manifest = read_manifest(bundle)
    manifest["parity_gpu"] = as_manifest(checks)
    manifest["gpu_validated"] = validated(checks)
    write_manifest(bundle, {k: v for k, v in manifest.items() if k != "schema_version"})
    return checks


if __name__ == "__main__":
    sys.exit(main())
