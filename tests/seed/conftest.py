from collections.abc import Callable

import pytest
from lhotse import MonoCut, Recording, SupervisionSegment


def build_cut(*supervisions: SupervisionSegment, domain: str = "speech", cut_id: str = "corpus-1", duration: float = 4.2, **custom) -> MonoCut:
    recording = Recording(id=f"{cut_id}-rec", sources=[], sampling_rate=16_000, num_samples=round(duration * 16_000), duration=duration)
    info = {
        "dataset": "corpus",
        "domain": domain,
        "split": "train",
        "license": "LICENCE-X",
        "attribution": "ATTRIB-X",
        "group": "GROUP-X",
        "origin": "ORIGIN-X",
    }
    return MonoCut(cut_id, 0.0, duration, 0, supervisions=list(supervisions), recording=recording, custom=info | custom)


def build_source(text=None, language=None, gender=None, start=0.0, duration=4.2, sup_id="s", **custom) -> SupervisionSegment:
    return SupervisionSegment(sup_id, "rec", start, duration, text=text, language=language, gender=gender, speaker="SPEAKER-X", custom=custom)


@pytest.fixture
def make_cut() -> Callable[..., MonoCut]:
    return build_cut


@pytest.fixture
def make_source() -> Callable[..., SupervisionSegment]:
    return build_source


@pytest.fixture
def speech(make_cut, make_source) -> MonoCut:
    return make_cut(make_source("Buongiorno a tutti", "Italian", "male", pitch="low", f0_hz=110.0, speaking_rate="fast", loudness="medium", snr_db=31.0))


@pytest.fixture
def sound(make_cut, make_source) -> MonoCut:
    return make_cut(make_source(sound="dog barking", sound_class="dog", loudness="loud"), domain="sound", cut_id="corpus-2")


@pytest.fixture
def music(make_cut, make_source) -> MonoCut:
    return make_cut(make_source(genre="reggae", tempo="slow", tempo_bpm=72.4, instrument=["guitar", "bass"]), domain="music", cut_id="corpus-3")
