"""The page in a real browser, Debian's Chromium; skipped where there is none."""

import json
import re
import shutil
import socket
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from PIL import Image

from mmretrieval.demo.page import serve

playwright = pytest.importorskip("playwright.sync_api")
pytest.importorskip("gradio")
CHROMIUM = shutil.which("chromium")
FLAGS = (
    "--no-sandbox",
    "--disable-gpu",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)

pytestmark = [
    pytest.mark.skipif(CHROMIUM is None, reason="needs Debian's package chromium"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),  # of gradio's own libraries
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]


@pytest.fixture(scope="module")
def address(page):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    served = serve(page, "127.0.0.1", port, wait=False)
    yield served.local_url
    served.close(verbose=False)


@pytest.fixture(scope="module")
def browser():
    with playwright.sync_playwright() as drive:
        opened = drive.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield opened
        opened.close()


@pytest.fixture
def view(browser, address):
    """A new user's view of the page, which sees no other machine."""
    context = browser.new_context(viewport={"width": 1200, "height": 900})
    tab = context.new_page()
    outside = []
    tab.on("request", lambda r: outside.append(r.url) if r.url.startswith("http") else None)
    tab.goto(address)
    tab.wait_for_selector("#search")
    yield tab
    context.close()
    assert [url for url in outside if not url.startswith(address.rstrip("/"))] == []


def found(tab):
    """Ask, and wait for the answer."""
    tab.evaluate("document.querySelectorAll('.hits').forEach(one => one.remove())")
    tab.click("#search")
    tab.wait_for_selector(".hits")
    return tab.eval_on_selector_all(".hit", "hits => hits.map(hit => hit.dataset.key)")


def toast(tab):
    tab.wait_for_selector(".toast-body")
    return tab.inner_text(".toast-body")


def test_text_picture_and_both_find_what_the_page_finds(view, page, files):
    wanted = ["text", "image", "image,text"]

    def expected(text, picture):
        return re.findall(r'data-key="([^"]*)"', page.search(text, picture, wanted, 12, False))

    view.fill("#text textarea", "Note number 3.")
    assert found(view) == expected("Note number 3.", None)
    green = str(files / "green.png")
    view.set_input_files("#picture input[type=file]", green)
    view.wait_for_selector("#query-picture")
    assert found(view) == expected("Note number 3.", green)
    view.fill("#text textarea", "")
    assert found(view) == expected("", green)


def test_the_filter_hides_other_modalities(view):
    view.fill("#text textarea", "x")
    for label in ("texts", "pictures with text"):
        view.get_by_label(label, exact=True).uncheck()
    assert sorted(found(view)) == ["blue.png", "green.png"]


def test_an_empty_query_is_told(view):
    view.click("#search")
    assert "Give a text, a picture, or both" in toast(view)


def test_a_page_named_jpg_is_refused_and_never_shown(view, tmp_path):
    (tmp_path / "page.jpg").write_text("<html><body><script>window.stolen = 1</script></body></html>")
    view.set_input_files("#picture input[type=file]", tmp_path / "page.jpg")
    assert "page.jpg cannot be used: no JPEG" in toast(view)
    assert view.query_selector("#query-picture") is None
    assert view.evaluate("window.stolen") is None


def test_an_upload_of_100_mb_is_refused(view, tmp_path):
    large = tmp_path / "large.png"
    with large.open("wb") as file:
        file.truncate(100 * 2**20)
    view.set_input_files("#picture input[type=file]", large)
    assert "maximum" in toast(view).lower()
    view.fill("#text textarea", "still there")
    assert len(found(view)) == 8


def test_a_script_in_a_caption_is_text(view):
    view.fill("#text textarea", "script")
    assert "red.png" in found(view)
    assert "<script>window.stolen = 1</script>" in view.inner_text(".hit[data-key='red.png'] .text")
    assert view.evaluate("window.stolen") is None


def test_the_mistakes_of_the_run_are_shown(view):
    view.get_by_role("tab", name="Mistakes of the run").click()
    view.wait_for_selector("text=hard_task7")
    assert "75.0" in view.inner_text("table")


def test_two_users_at_once_get_their_own_answers(address, page):
    gradio_client = pytest.importorskip("gradio_client")

    def ask(number):
        client = gradio_client.Client(address, verbose=False)
        return client.predict(f"Note number {number}.", None, ["text"], 1, False, api_name="/told")

    with ThreadPoolExecutor(4) as pool:
        answers = list(pool.map(ask, [0, 1, 2, 3] * 3))
    for number, html in zip([0, 1, 2, 3] * 3, answers, strict=True):
        expected = page.search(f"Note number {number}.", None, ["text"], 1, False)
        assert html == expected


@pytest.mark.parametrize("name", ["../secret.txt", "note-0.txt", "red.png"])
def test_no_file_of_the_disk_is_served(address, files, name):
    path = (files / name).resolve()
    assert path.exists()
    for form in ("gradio_api/file={}", "file={}", "gradio_api/file/{}"):
        with pytest.raises(urllib.error.HTTPError) as refused:
            urllib.request.urlopen(address + form.format(path))
        assert refused.value.code in (403, 404)


def test_a_path_or_an_address_instead_of_an_upload_is_refused(address, files):
    def answer(upload):
        body = json.dumps({"data": ["", upload, ["text"], 1, False]}).encode()
        headers = {"Content-Type": "application/json"}
        asked = urllib.request.Request(f"{address}gradio_api/call/told", body, headers)
        with urllib.request.urlopen(asked) as begun:
            event = json.load(begun)["event_id"]
        with urllib.request.urlopen(f"{address}gradio_api/call/told/{event}") as ended:
            return ended.read().decode()

    kind = {"meta": {"_type": "gradio.FileData"}}
    assert "event: complete" not in answer(kind | {"path": str(files / "green.png")})
    assert "event: complete" not in answer(kind | {"path": "x.png", "url": f"{address}x.png"})


def test_the_page_looks_as_it_should(view, tmp_path):
    view.fill("#text textarea", "Note number 3.")
    found(view)
    shown = "[...document.querySelectorAll('.hit img')]"
    view.wait_for_function(f"{shown}.every(image => image.naturalWidth > 0)")
    seen: list[int] = []
    for _ in range(40):  # what is loaded may not be painted yet
        view.screenshot(path=tmp_path / "page.png")
        pixels = np.asarray(Image.open(tmp_path / "page.png").convert("RGB")).astype(int)
        three = ((255, 0, 0), (0, 128, 0), (0, 0, 255))
        seen = [int((np.abs(pixels - colour).sum(axis=2) < 30).sum()) for colour in three]
        if min(seen) > 3_000:
            break
        view.wait_for_timeout(250)
    assert min(seen) > 3_000, f"the three pictures are seen: {seen}"
    cards = view.query_selector_all(".hit")
    boxes = [card.bounding_box() for card in cards]
    assert all(box["width"] > 150 and box["x"] + box["width"] <= 1200 for box in boxes)
    assert len({(box["x"], box["y"]) for box in boxes}) == len(boxes) == 8, "no card covers another"
