"""The app in a real browser, at the width of a desk and of a phone. Needs Chromium; set CHROMIUM to where it is."""

import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.request

import numpy as np
import pytest
from model_folders import save_model
from paths import ROOT
from PIL import Image

from setr_hf.inference.loading import load_model
from setr_hf.inference.photos import read_photo
from setr_hf.inference.sliding_windows import segment


CHROMIUM = os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("google-chrome")
QUIET = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking"]
QUIET += ["--disable-component-update", "--disable-sync"]

pytestmark = [
    pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium, which CHROMIUM or the PATH names"),
    pytest.mark.skipif(sys.platform != "linux", reason="looks for Chromium as Linux has it"),
]


def photo_file(path, seed, size=(240, 180)):
    pixels = np.random.default_rng(seed).integers(0, 256, (6, 8, 3), np.uint8)
    Image.fromarray(pixels).resize(size, Image.Resampling.BICUBIC).save(path)
    return path


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("app")
    for seed, name in enumerate(("first", "second")):
        save_model(folder / name, ["sky", "road", "<b>car</b>", "tree", "person"], seed)
    (folder / "photos").mkdir()
    for seed in range(3):
        photo_file(folder / f"photos/photo-{seed}.png", seed)
    return folder


@pytest.fixture(scope="module")
def address(folder):
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        port = server.getsockname()[1]
    command = [sys.executable, "scripts/app.py", str(folder / "first"), str(folder / "second"), "--port", str(port)]
    command += ["--max-megapixels", "1", "--max-photos", "2"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "GRADIO_TEMP_DIR": str(folder / "uploads")}
    with subprocess.Popen(command, cwd=ROOT, env=environment, stderr=subprocess.PIPE, text=True) as process:
        url = f"http://127.0.0.1:{port}"
        for _ in range(600):
            try:
                urllib.request.urlopen(url, timeout=5).close()
                break
            except OSError:
                assert process.poll() is None, process.stderr.read()
                time.sleep(0.2)
        yield url
        process.terminate()


@pytest.fixture(scope="module")
def browser():
    sync_api = pytest.importorskip("playwright.sync_api")
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=QUIET)
        yield browser
        browser.close()


@pytest.fixture(params=[(1280, 900), (390, 844)], ids=["desk", "phone"])
def page(browser, address, request):
    width, height = request.param
    page = browser.new_page(viewport={"width": width, "height": height})
    errors = []
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.goto(address)
    page.wait_for_selector("#photos input[type=file]", state="attached", timeout=60_000)
    yield page
    assert errors == []
    page.close()


def drop(page, *paths, models="first"):
    page.set_input_files("#photos input[type=file]", [str(path) for path in paths])
    page.wait_for_selector(f"[data-models='{models}']", timeout=60_000)


def place(page, across, down):
    box = page.locator("#viewer .photo").bounding_box()
    return box["x"] + across * box["width"], box["y"] + down * box["height"]


def expected_label_map(folder, model, path):
    network, processor = load_model(folder / model)
    return segment(network, processor, [read_photo(path)])[0].numpy(), network.config.id2label


def test_a_photo_is_segmented_named_and_downloaded(page, folder, tmp_path):
    path = folder / "photos/photo-0.png"
    drop(page, path)
    label_map, names = expected_label_map(folder, "first", path)
    ids, counts = np.unique(label_map, return_counts=True)
    legend = page.locator("#viewer .legends button").all_inner_texts()
    assert sorted(legend) == sorted(f"{names[i]} {100 * n / label_map.size:.1f} %" for i, n in zip(ids, counts))
    for across, down in ((0.11, 0.12), (0.52, 0.48), (0.93, 0.88)):
        page.mouse.move(*place(page, across, down))
        found = names[int(label_map[int(down * 180), int(across * 240)])]
        assert page.locator("#viewer .tip").inner_text().startswith(f"{found} · ")
    with page.expect_download() as download:
        page.locator("#labels").click()
    download.value.save_as(tmp_path / "labels.png")
    assert (np.asarray(Image.open(tmp_path / "labels.png")) == label_map).all()
    with page.expect_download() as download:
        page.locator("#overlay").click()
    assert download.value.suggested_filename == "photo-0_overlay.png"
    # Nothing is wider than the window.
    assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")


def test_opacity_confidence_and_a_single_class_are_shown_at_once(page, folder):
    drop(page, folder / "photos/photo-1.png")
    page.locator("#viewer .opacity").fill("20")
    assert page.locator("#viewer .first").evaluate("canvas => canvas.style.opacity") == "0.2"
    pixel = "canvas => [...canvas.getContext('2d').getImageData(5, 5, 1, 1).data].join()"
    before = page.locator("#viewer .first").evaluate(pixel)
    page.locator("#viewer .sure").check()
    assert page.locator("#viewer .first").evaluate(pixel) != before
    page.locator("#viewer .sure").uncheck()
    button = page.locator("#viewer .legends button").last
    button.click()
    assert button.get_attribute("aria-pressed") == "true"
    button.click()
    assert page.locator("#viewer .first").evaluate(pixel) == before


def test_two_models_are_compared_with_a_slider(page, folder):
    path = folder / "photos/photo-2.png"
    drop(page, path)
    page.locator("#other input").click()
    page.get_by_role("option", name="second").click()
    page.wait_for_selector("[data-models='first second']", timeout=60_000)
    found = []
    for model, across in (("first", 0.3), ("second", 0.7)):
        label_map, names = expected_label_map(folder, model, path)
        page.mouse.move(*place(page, across, 0.5))
        found.append(page.locator("#viewer .tip").inner_text().split(" · ")[0])
        assert found[-1] == names[int(label_map[90, int(across * 240)])]
    page.mouse.move(*place(page, 0.5, 0.5))
    page.mouse.down()
    page.mouse.move(*place(page, 0.2, 0.5), steps=4)
    page.mouse.up()
    assert int(page.locator("#viewer .divider").get_attribute("aria-valuenow")) == pytest.approx(20, abs=1)


def test_what_is_too_large_or_no_photo_is_said(page, folder, tmp_path):
    photo_file(tmp_path / "huge.png", 0, size=(1200, 900))
    page.set_input_files("#photos input[type=file]", str(tmp_path / "huge.png"))
    page.get_by_text("huge.png has 1.1 megapixels: 1 are the most").first.wait_for(timeout=30_000)
    page.reload()
    page.wait_for_selector("#photos input[type=file]", state="attached")
    page.set_input_files("#photos input[type=file]", [str(folder / f"photos/photo-{seed}.png") for seed in range(3)])
    page.get_by_text("Only the first 2 of 3 photos are taken").first.wait_for(timeout=30_000)
    page.wait_for_selector("[data-models='first']", timeout=60_000)
    assert page.locator("#gallery button img").count() == 2
