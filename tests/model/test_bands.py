"""Photos of any number of bands: files, image processor, label maps."""

import numpy as np
import pytest
import rasterio
import torch
from PIL import Image
from transformers import AutoImageProcessor, pipeline

from setr_hf import (
    BandSegmentationPipeline,
    SetrConfig,
    SetrForSemanticSegmentation,
    SetrImageProcessor,
    SetrImageProcessorPil,
    read_bands,
    segment,
    segment_large_picture,
)
from setr_hf.errors import SetrError
from setr_hf.inference.loading import load_model
from setr_hf.inference.photos import read_photo, shown_photo


pytestmark = pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")
TYPES = ("uint8", "uint16", "float32")
WINDOWS = {"do_split_image": True, "do_resize": False, "crop_size": 32, "stride": 20}


def random_bands(num_bands, dtype, height=40, width=56):
    values = np.random.default_rng(num_bands).random((height, width, num_bands))
    return (values if dtype == "float32" else values * np.iinfo(dtype).max).astype(dtype)


def write(path, bands, **options):
    if path.suffix == ".npy":
        np.save(path, bands)
    else:
        shape = {"height": bands.shape[0], "width": bands.shape[1], "count": bands.shape[2], "dtype": bands.dtype}
        with rasterio.open(path, "w", driver="GTiff", **shape, **options) as file:
            file.write(np.moveaxis(bands, -1, 0))
    return path


def band_processor(num_bands, processor_class=SetrImageProcessor, **settings):
    return processor_class(image_mean=[0.4] * num_bands, image_std=[0.2] * num_bands, **settings)


def band_model(num_bands):
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "num_hidden_layers": 4, "num_attention_heads": 4, "image_size": 32}
    return SetrForSemanticSegmentation(SetrConfig(**sizes, num_labels=5, num_channels=num_bands)).eval()


@pytest.mark.parametrize("num_bands", [1, 4, 8, 13])
def test_from_file_to_label_map(tmp_path, num_bands):
    model, processor = band_model(num_bands), band_processor(num_bands, **WINDOWS)
    segmenter = pipeline(
        "image-segmentation", model=model, image_processor=processor, pipeline_class=BandSegmentationPipeline
    )
    for dtype in TYPES:
        bands = random_bands(num_bands, dtype)
        files = [write(tmp_path / f"{dtype}.npy", bands), write(tmp_path / f"{dtype}.tif", bands)]
        photos = [read_bands(file, num_bands) for file in files]
        assert all(np.array_equal(photo, bands) and photo.dtype == bands.dtype for photo in photos)
        first, second = segment(model, processor, photos)
        assert first.shape == (40, 56) and torch.equal(first, second)

        segment_large_picture(model, processor, files[1], tmp_path / "whole.tif")
        with rasterio.open(tmp_path / "whole.tif") as whole:
            assert np.array_equal(whole.read(1), first.numpy())
        names = {part["label"]: np.asarray(part["mask"]) > 0 for part in segmenter(str(files[0]))}
        assert all(np.array_equal(first.numpy() == model.config.label2id[name], names[name]) for name in names)


@pytest.mark.parametrize("dtype", [*TYPES, "int16"])
@pytest.mark.parametrize("num_bands", [1, 2, 4, 13])
def test_both_backends_agree_and_rescale_by_the_type(num_bands, dtype):
    bands = random_bands(num_bands, dtype)
    for settings in ({**WINDOWS}, {"size": {"height": 32, "width": 24}, "antialias": False}):
        results = [
            band_processor(num_bands, kind, **settings)(photo, return_tensors="pt")
            for kind in (SetrImageProcessor, SetrImageProcessorPil)
            for photo in (bands, np.moveaxis(bands, -1, 0), torch.from_numpy(bands))
        ]
        name = "pixel_windows" if "pixel_windows" in results[0] else "pixel_values"
        for result in results:
            torch.testing.assert_close(result[name], results[0][name], rtol=0, atol=1e-6)
    scale = 1 if dtype == "float32" else np.iinfo(dtype).max
    pixels = band_processor(num_bands, do_resize=False)(bands, return_tensors="pt")["pixel_values"][0]
    np.testing.assert_allclose(pixels.permute(1, 2, 0), (bands / scale - 0.4) / 0.2, atol=1e-5)


def test_a_factor_that_is_given_holds_for_every_type(tmp_path):
    processor = band_processor(4, rescale_factor=1 / 10000, do_resize=False)
    processor.save_pretrained(tmp_path)
    assert AutoImageProcessor.from_pretrained(tmp_path).rescale_factor == 1 / 10000
    pixels = processor(np.full((8, 8, 4), 3000, np.uint16), return_tensors="pt")["pixel_values"]
    torch.testing.assert_close(pixels, torch.full((1, 4, 8, 8), (0.3 - 0.4) / 0.2))


@pytest.mark.parametrize("num_bands", [3, 4])
def test_rescaling_by_the_type_is_saved(tmp_path, num_bands):
    band_processor(num_bands, rescale_factor=None).save_pretrained(tmp_path)
    loaded = AutoImageProcessor.from_pretrained(tmp_path)
    assert loaded.rescale_factor is None and loaded.num_bands == num_bands
    assert SetrImageProcessor().rescale_factor == 1 / 255 and SetrImageProcessor().num_bands is None


def test_pictures_that_pillow_reads_have_bands_too(tmp_path):
    gray = Image.fromarray(random_bands(1, "uint8")[..., 0])
    processor = band_processor(1, do_resize=False)
    expected = processor(np.asarray(gray), return_tensors="pt")["pixel_values"]
    # The stock pipeline makes gray photos RGB.
    assert torch.equal(processor(gray.convert("RGB"), return_tensors="pt")["pixel_values"], expected)
    with pytest.raises(ValueError, match="image 0: it has 3 channels, but image_mean has 1"):
        processor(Image.fromarray(random_bands(3, "uint8")))
    Image.fromarray(random_bands(4, "uint8"), "RGBA").save(tmp_path / "four.png")
    assert np.array_equal(read_bands(tmp_path / "four.png", 4), random_bands(4, "uint8"))


def test_rgb_models_read_arrays_and_16_bit_tiff_as_8_bit_photos(tmp_path):
    rgb = random_bands(3, "uint8")
    for path in (write(tmp_path / "8.npy", rgb), write(tmp_path / "16.tif", rgb.astype(np.uint16) * 257)):
        assert np.array_equal(read_photo(path), rgb)


@pytest.mark.parametrize("name", ["photo.npy", "photo.tif"])
def test_what_cannot_be_used_is_named_with_its_file(tmp_path, name):
    bands = random_bands(4, "float32")
    path = write(tmp_path / name, bands)
    with pytest.raises(ValueError, match=f"{name} cannot be read as a photo: it has 4 channels, but image_mean has 5"):
        read_bands(path, 5)
    for value, count in ((np.nan, 1), (np.inf, 2)):
        bands[count, count, count] = value
        with pytest.raises(ValueError, match=f"{name} .*: {count} of its pixels are NaN or infinite"):
            read_bands(write(path, bands))
    path.write_bytes(path.read_bytes()[:-300])
    with pytest.raises(ValueError, match=f"{name} cannot be read as a photo"):
        read_bands(path)
    path.write_bytes(b"")
    with pytest.raises(ValueError, match=f"{name} cannot be read as a photo: it is not in a format"):
        read_bands(path)


def test_pixels_without_data_are_refused(tmp_path):
    bands = random_bands(2, "uint16") // 2 + 1
    path = write(tmp_path / "scene.tif", bands, nodata=0)
    assert np.array_equal(read_bands(path), bands)
    bands[:2, :3] = 0
    write(path, bands, nodata=0)
    with pytest.raises(ValueError, match=r"scene.tif .*: 6 of its pixels hold no data \(nodata=0\)"):
        read_bands(path)
    model, processor = band_model(2), band_processor(2, **WINDOWS)
    with pytest.raises(SetrError, match=r"scene.tif .*: 6 of its pixels hold no data"):
        segment_large_picture(model, processor, path, tmp_path / "labels.tif")
    assert not (tmp_path / "labels.tif").exists()


@pytest.mark.parametrize("content", [np.array(["a"]), np.zeros(4), np.zeros((2, 2, 2, 2)), np.zeros((0, 4, 3))])
def test_arrays_that_are_no_photos_are_refused(tmp_path, content):
    np.save(tmp_path / "other.npy", content)
    with pytest.raises(ValueError, match=r"other.npy cannot be read as a photo: (it has|it holds|there are no)"):
        read_bands(tmp_path / "other.npy")
    np.save(tmp_path / "pickle.npy", np.array([{}], dtype=object), allow_pickle=True)
    with pytest.raises(ValueError, match=r"pickle.npy cannot be read as a photo"):
        read_bands(tmp_path / "pickle.npy")


def test_model_and_processor_must_have_the_same_bands(tmp_path):
    band_model(4).save_pretrained(tmp_path)
    band_processor(5).save_pretrained(tmp_path)
    with pytest.raises(SetrError, match="takes 4 channels, but the image_mean of its image processor has 5"):
        load_model(tmp_path)


def test_bands_are_shown_stretched():
    bands = random_bands(5, "float32") * 1e4 - 5e3
    shown = np.asarray(shown_photo(bands))
    low, high = np.percentile(bands[..., 1], (2, 98))
    np.testing.assert_allclose(shown[..., 1], np.clip((bands[..., 1] - low) / (high - low), 0, 1) * 255, atol=0.51)
    gray = np.asarray(shown_photo(np.full((4, 4, 2), 7, np.uint16)))
    assert gray.shape == (4, 4, 3) and (gray == gray[..., :1]).all()
