"""The demo page: its files, and in a headless Chromium: drop a clip, ask, read the streamed answer, see what is wrong with a broken file."""

import re
import shutil
from collections.abc import Iterator

import httpx
import pytest

from nemo_desta.serving.app import WEB
from tests.serving.conftest import encoded, tone


@pytest.fixture(scope="module")
def base(serve):
    return serve()


def test_the_page_comes_from_the_server_alone(base):
    page = httpx.get(f"{base}/")
    assert page.status_code == 200 and "default-src 'self'" in page.headers["content-security-policy"]
    named = re.findall(r'(?:src|href)="([^"]+)"', page.text)
    assert {"app.js", "sound.js", "style.css"} <= set(named)
    for name in named:
        assert name.startswith("data:") or httpx.get(f"{base}/{name}").status_code == 200, name
    for file in WEB.iterdir():
        assert not re.search(r"https?://(?!localhost)[a-z]", file.read_text(encoding="utf-8")), f"{file.name} names another server"


def test_the_page_can_be_left_out(serve):
    base = serve(web=False)
    assert httpx.get(f"{base}/").status_code == 404 and httpx.get(f"{base}/health").status_code == 200


def test_the_scripts_address_elements_that_exist():
    page, script = (WEB / "index.html").read_text(encoding="utf-8"), (WEB / "app.js").read_text(encoding="utf-8")
    assert set(re.findall(r'\$\("(\w+)"\)', script)) <= set(re.findall(r'id="(\w+)"', page))


@pytest.fixture(scope="module")
def browser() -> Iterator[object]:
    api = pytest.importorskip("playwright.sync_api", reason="needs playwright: pip install -e '.[dev]'")
    chromium = next((path for name in ("chromium", "chromium-browser", "google-chrome") if (path := shutil.which(name))), None)
    if chromium is None:
        pytest.skip("needs Chromium or Chrome")
    options = ["--no-sandbox", "--disable-gpu", "--use-fake-ui-for-media-stream", "--use-fake-device-for-media-stream"]
    with api.sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=chromium, headless=True, args=options, timeout=180_000)
        yield started
        started.close()


def has_text(page, selector, text):
    """Wait until an element's text is, or holds, what is given."""
    from playwright.sync_api import expect

    expect(page.locator(selector)).to_contain_text(text, timeout=120_000)


@pytest.fixture
def page(browser, base):
    context = browser.new_context(permissions=["microphone"])
    page = context.new_page()
    page.set_default_timeout(120_000)
    page.problems = []
    page.on("pageerror", lambda error: page.problems.append(str(error)))
    page.on("request", lambda request: None if request.url.startswith((base, "data:", "blob:")) else page.problems.append(request.url))
    page.goto(base)
    has_text(page, "#model", "tiny")
    yield page
    context.close()


WATCH = """() => {
    window.seen = new Set();
    const answer = document.getElementById("answer");
    new MutationObserver(() => window.seen.add(answer.textContent)).observe(answer, {childList: true});
}"""


def test_a_clip_is_shown_and_answered(page, tmp_path):
    (tmp_path / "hum.wav").write_bytes(encoded(tone(1.5, rate=44_100), rate=44_100))
    page.set_input_files("#file", tmp_path / "hum.wav")
    has_text(page, "#clipname", "hum.wav, 1.5 s")
    page.wait_for_selector("#spectrogram:visible")
    painted = "id => document.getElementById(id).getContext('2d').getImageData(0, 0, 800, 90).data.filter((v, i) => i % 4 === 3 && v).length"
    assert page.evaluate(painted, "waveform") > 1_000 and page.evaluate(painted, "spectrogram") == 800 * 90
    page.click("summary")  # the settings are folded
    page.fill("#transcript", "a low hum")
    page.evaluate(WATCH)
    with page.expect_request("**/v1/chat/completions") as sent:
        page.click("#ask")
    part = sent.value.post_data_json["messages"][0]["content"][0]
    assert part["transcript"] == "a low hum" and set(part["input_audio"]) == {"data", "format"}, "vLLM reads the words beside the clip alone"
    has_text(page, "#figures", "prompt tokens")
    assert page.inner_text("#blocks li") == "0.0 – 1.5 s: a low hum"
    assert page.inner_text("#answer").strip() and page.evaluate("() => window.seen.size") > 2, "the answer was not streamed"
    assert page.inner_text("#scale") == "0 to 1.5 s from left to right; spectrogram from 0 to 8 kHz"
    assert not page.is_visible("#error") and not page.problems
    page.set_viewport_size({"width": 360, "height": 800})
    page.evaluate("() => { document.getElementById('answer').textContent = 'x'.repeat(500); }")
    assert page.evaluate("() => document.documentElement.scrollWidth") <= 360, "the page is wider than a telephone"


def test_a_broken_file_is_said(page, tmp_path):
    (tmp_path / "broken.mp3").write_bytes(b"no sound at all" * 100)
    page.set_input_files("#file", tmp_path / "broken.mp3")
    has_text(page, "#clipname", "cannot be shown")
    page.click("#ask")
    page.wait_for_selector("#error:visible")
    assert "cannot be decoded" in page.inner_text("#error") and not page.is_visible("#result")
    page.click("#clear")
    page.click("#ask")
    has_text(page, "#figures", "prompt tokens")
    assert not page.is_visible("#error") and page.inner_text("#blocks") == "no audio in this request" and not page.problems


def test_a_recording_is_sent_as_wav(page):
    page.click("#record")
    page.wait_for_timeout(1_500)
    page.click("#record")
    has_text(page, "#clipname", "recording, ")
    page.click("#ask")
    has_text(page, "#figures", "prompt tokens")
    assert not page.is_visible("#error") and page.inner_text("#blocks li").startswith("0.0 – ") and not page.problems
