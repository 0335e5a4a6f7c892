"""Targets whose audio lies in the tar files of a Shar folder are refused before a model is loaded; written into files they can be trained on."""

import gzip
from pathlib import Path

import pytest
from lhotse import CutSet

from nemo_desta.data.dataset import load_samples
from nemo_desta.data.supervision import self_generated
from nemo_desta.manifests.indexing import index_files
from nemo_desta.manifests.shar import SharOptions, write_shar
from nemo_desta.models import training
from nemo_desta.models.training import load_targets, train
from tests.models.train_child import config
from tests.tiny import tiny_targets

REFUSED = r"the audio of '.*' lies in the tar files of a Shar folder, which training does not read: generate the targets from the JSONL file or indexed store"


@pytest.fixture
def shar(tmp_path: Path) -> Path:
    """The tiny run's targets as Shar, its text as the target generation leaves it: unpacked, with an index."""
    tiny_targets(tmp_path)
    write_shar(tmp_path / "targets" / "cuts_train.jsonl.gz", tmp_path / "shar", SharOptions(shard_size=4))
    (tmp_path / "store").mkdir()
    for packed in sorted((tmp_path / "shar" / "shards").glob("cuts.*.jsonl.gz")):
        (tmp_path / "store" / packed.name.removesuffix(".gz")).write_bytes(gzip.decompress(packed.read_bytes()))
    index_files(sorted((tmp_path / "store").glob("*.jsonl")))
    return tmp_path


def test_targets_from_shar_are_refused_before_a_model_is_loaded(shar: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(training, "_module_and_data", lambda *arguments: pytest.fail("a model was loaded"))
    cfg = config(shar)
    for manifest in (shar / "store", shar / "store" / "cuts.000000.jsonl"):
        cfg.data.manifest = str(manifest)
        with pytest.raises(ValueError, match=f"data.manifest={manifest}: {REFUSED}"):
            train(cfg)
    with pytest.raises(ValueError, match=f"data.validation_manifest=.*: {REFUSED}"):
        load_targets(shar, str(shar / "store"), key="data.validation_manifest")


def test_one_shard_of_such_targets_among_others_is_found(shar: Path) -> None:
    """Also where the shard before it begins with a damaged line."""
    whole = gzip.decompress((shar / "targets" / "cuts_train.jsonl.gz").read_bytes())
    first = shar / "store" / "cuts.000000.jsonl"
    first.write_bytes(b"{" + whole)
    for shard in sorted((shar / "store").glob("cuts.*.jsonl"))[2:]:
        shard.unlink()
    for rest in (shar / "store").glob("*.idx"):
        rest.unlink()
    index_files(sorted((shar / "store").glob("*.jsonl")))
    with pytest.raises(ValueError, match=REFUSED):
        load_targets(shar, str(shar / "store"))
    (shar / "good").mkdir()
    (shar / "good" / "cuts.jsonl").write_bytes(whole)
    index_files([shar / "good" / "cuts.jsonl"])
    assert len(load_targets(shar, str(shar / "good"))) == len(load_targets(shar))


def test_written_into_files_the_audio_can_be_read(shar: Path) -> None:
    """As docs/targets.md says."""
    texts, tars = sorted((shar / "store").glob("cuts.*.jsonl")), sorted((shar / "shar" / "shards").glob("recording.*.tar"))
    cuts = CutSet.from_shar(fields={"cuts": [str(path) for path in texts], "recording": [str(path) for path in tars]})
    cuts.save_audios(shar / "audio", format="flac").to_file(shar / "heard.jsonl.gz")
    before, after = list(load_targets(shar)), list(load_targets(shar, str(shar / "heard.jsonl.gz")))
    assert [cut.id for cut in after] == [cut.id for cut in before] and len(after) > 4
    for one, other in zip(before, after, strict=True):
        assert [row.to_dict() for row in self_generated(one)] == [row.to_dict() for row in self_generated(other)]
        assert (load_samples(one) - load_samples(other)).abs().max() < 1e-4
