"""What the app does for strangers, and the limits within which it does it."""

import json
import threading
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from setr_hf import SetrImageProcessor
from setr_hf.app.segmenting import Limits, Segmenting, TimeIsUp, model_names
from setr_hf.app.view import MOST_RESULTS, ResultFiles, packed, shown_photo, shown_prediction, shown_size
from setr_hf.errors import SetrError
from setr_hf.inference.predictions import Prediction
from setr_hf.inference.sliding_windows import segment


@pytest.fixture
def folder(tiny_model, tmp_path):
    tiny_model(decoder_type="naive").save_pretrained(tmp_path / "model")
    processor = SetrImageProcessor(do_split_image=True, size={"shortest_edge": 64}, crop_size=64, stride=43)
    processor.save_pretrained(tmp_path / "model")
    return str(tmp_path / "model")


@pytest.fixture
def photo():
    pixels = np.random.default_rng(0).integers(0, 256, (9, 12, 3), np.uint8)
    return Image.fromarray(pixels).resize((120, 90), Image.Resampling.BICUBIC)


def test_its_label_maps_are_those_of_segment(folder, photo):
    segmenting = Segmenting({"model": folder}, Limits())
    for protocol in ("single", "multi"):
        prediction, config = segmenting.predict(photo, "model", protocol)
        segmenter = segmenting.segmenter("model", protocol)
        expected = segment(segmenter.model, segmenter.processor, [photo], segmenter.scales)[0]
        assert (prediction.label_map == expected.numpy()).all()
        assert prediction.confidence.shape == (90, 120) and len(config.id2label) == 5
    # Both protocols share one copy of the weights.
    assert segmenting.segmenter("model", "single").model is segmenting.segmenter("model", "multi").model


def test_a_photo_that_takes_too_long_is_given_up(folder, photo):
    segmenting = Segmenting({"model": folder}, Limits(seconds=-1))
    with pytest.raises(TimeIsUp, match="takes longer than -1 seconds: choose a smaller one"):
        segmenting.predict(photo, "model", "multi")
    assert not segmenting.segmenter("model", "multi").model._forward_pre_hooks


def test_photos_are_segmented_one_at_a_time(folder, photo):
    segmenting = Segmenting({"model": folder}, Limits())
    model, inside, most = segmenting.segmenter("model", "single").model, [0], [0]

    def enter(*_):
        inside[0] += 1
        most[0] = max(most[0], inside[0])

    model.register_forward_pre_hook(enter)
    model.register_forward_hook(lambda *_: inside.__setitem__(0, inside[0] - 1))
    threads = [threading.Thread(target=segmenting.predict, args=(photo, "model", "multi")) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == [1]


def test_photos_and_models_that_are_not_for_strangers_are_refused(folder, photo, tmp_path):
    segmenting = Segmenting({"model": folder}, Limits(megapixels=0.01))
    photo.save(tmp_path / "large.png")
    (tmp_path / "broken.jpg").write_bytes(b"no photo")
    with pytest.raises(SetrError, match=r"^large\.png has 0\.0 megapixels: 0\.01 are the most"):
        segmenting.read(tmp_path / "large.png")
    with pytest.raises(SetrError, match=r"^broken\.jpg cannot be read as a photo"):
        segmenting.read(tmp_path / "broken.jpg")
    for name in ("other", "../model", folder, ""):
        with pytest.raises(SetrError, match="there is no model"):
            segmenting.predict(photo, name, "single")


def test_models_are_called_by_their_folders_unless_two_have_the_same_name(tmp_path):
    for name in ("a/model", "b/model", "a/other"):
        (tmp_path / name).mkdir(parents=True)
    first, second, other = (str(tmp_path / name) for name in ("a/model", "b/model", "a/other"))
    assert model_names([first, other, "me/setr"]) == {"model": first, "other": other, "me/setr": "me/setr"}
    assert model_names([first, second]) == {first: first, second: second}


@pytest.mark.parametrize("size", [(1, 1), (120, 90), (4000, 3), (1281, 1280)])
def test_the_browser_gets_every_id_and_confidence(size, tiny_config):
    width, height = size
    config = tiny_config(num_labels=300, semantic_loss_ignore_index=-100)
    label_map = np.arange(width * height, dtype=np.uint16).reshape(height, width) % 300
    confidence = np.linspace(0, 1, width * height, dtype=np.float32).reshape(height, width)
    photo = Image.new("RGB", size)
    prediction = Prediction(photo, label_map, None, confidence)
    shown = shown_size(photo)
    assert max(shown) <= 1280 and min(shown) >= 1
    channels = np.asarray(packed(prediction, shown)).astype(int)
    ids = channels[..., 0] + 256 * channels[..., 1]
    if shown == size:
        assert (ids == label_map).all() and (abs(channels[..., 2] / 255 - confidence) <= 1 / 255).all()
    assert set(np.unique(ids)) <= set(range(300))
    content = json.loads(shown_photo(photo, [shown_prediction("m", prediction, config, shown)]))
    assert (content["width"], content["height"]) == shown
    assert sum(entry["share"] for entry in content["results"][0]["classes"]) == pytest.approx(1)


def test_files_have_the_photos_size_and_old_ones_are_deleted(folder, photo):
    segmenting, files = Segmenting({"model": folder}, Limits()), ResultFiles()
    prediction, config = segmenting.predict(photo, "model", "single")
    written = [files.write("photo", prediction, config) for _ in range(MOST_RESULTS + 2)]
    assert (np.asarray(Image.open(written[-1][0])) == prediction.label_map).all()
    assert Image.open(written[-1][1]).width >= 120
    assert len([path for pair in written for path in pair if not Path(path).exists()]) == 4
    with pytest.raises(SetrError, match="cannot have a file of its name"):
        files.write("../photo", prediction, config)
