"""The fixture `asset`: tests never download what is not in the ci tier."""

from collections.abc import Callable
from pathlib import Path

import pytest

from nemo_desta import assets


@pytest.mark.parametrize("ci", ["true", ""])
def test_what_is_beyond_the_ci_tier_is_skipped_and_never_fetched(
    cache: Path, asset: Callable[..., dict[str, Path]], monkeypatch: pytest.MonkeyPatch, ci: str
) -> None:
    fetched: list[str] = []
    monkeypatch.setenv("CI", ci)
    monkeypatch.setattr(assets, "fetch", lambda names, **_: fetched.extend(names))
    with pytest.raises(pytest.skip.Exception, match=r"festvox-ru, not part of the ci tier.*make test-assets"):
        asset("festvox-ru", "scratch")
    assert fetched == []


@pytest.mark.parametrize(("ci", "outcome"), [("true", pytest.fail.Exception), ("", pytest.skip.Exception)])
def test_a_missing_asset_of_the_ci_tier_is_a_failure_in_ci(
    cache: Path, asset: Callable[..., dict[str, Path]], monkeypatch: pytest.MonkeyPatch, ci: str, outcome: type[BaseException]
) -> None:
    def fail(names: object, **_: object) -> None:
        raise assets.AssetError("no network")

    monkeypatch.setenv("CI", ci)
    monkeypatch.setattr(assets, "fetch", fail)
    with pytest.raises(outcome, match="no network"):
        asset("scratch", "whisper-base")
