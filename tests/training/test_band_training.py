"""Training on photos of any number of bands: data, statistics, augmentation, inflation of RGB weights."""

import json
import runpy
from functools import partial

import numpy as np
import pytest
import rasterio
import torch
from datasets import Array3D, Dataset, Features, Value
from datasets import Image as ImageFeature
from paths import ROOT
from PIL import Image
from torchvision import tv_tensors
from transformers import AutoModel, TimmWrapperConfig, TimmWrapperForImageClassification, ViTConfig, ViTModel
from transformers.image_utils import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

from setr_hf import SetrConfig, SetrForSemanticSegmentation, SetrImageProcessor, load_encoder, load_segmentation_data
from setr_hf.checkpoints.inflation import Normalization, inflate_input_channels, inflate_model, inflate_projection
from setr_hf.data.augmentation import training_transform
from setr_hf.data.band_statistics import band_statistics
from setr_hf.data.checks import checked_samples
from setr_hf.data.examples import collate, training_examples
from setr_hf.errors import SetrError
from setr_hf.model.plain_backbone_setr import with_channels


pytestmark = pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")
SIZES = {"hidden_size": 32, "num_hidden_layers": 4, "num_attention_heads": 4, "intermediate_size": 64}
RGB = Normalization(IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD)


def write_photo(path, bands):
    if path.suffix == ".npy":
        np.save(path, bands)
    else:
        shape = {"height": bands.shape[0], "width": bands.shape[1], "count": bands.shape[2], "dtype": bands.dtype}
        with rasterio.open(path, "w", driver="GTiff", **shape) as file:
            file.write(np.moveaxis(bands, -1, 0))


def band_folder(root, num_bands, dtype, suffix):
    random = np.random.default_rng(0)
    for split in ("train", "val"):
        for part in ("images", "annotations"):
            (root / part / split).mkdir(parents=True)
        for index in range(2):
            values = random.random((40, 56, num_bands)) * np.linspace(0.2, 1, num_bands)
            bands = (values if dtype == "float32" else values * np.iinfo(dtype).max).astype(dtype)
            write_photo(root / "images" / split / f"field_{index}{suffix}", bands)
            mask = Image.fromarray(random.integers(0, 3, (40, 56)).astype(np.uint8))
            mask.save(root / "annotations" / split / f"field_{index}.png")
    (root / "labels.json").write_text(json.dumps({"id2label": {"0": "soil", "1": "wheat", "2": "maize"}}))
    return root


def run(job, *arguments):
    """Runs a job in this process, whose imports are there already."""
    return runpy.run_path(str(ROOT / "scripts" / f"{job}.py"))["main"]([str(argument) for argument in arguments])


def rgb_model():
    torch.manual_seed(0)
    config = SetrConfig(**SIZES, image_size=32, id2label={0: "soil", 1: "wheat", 2: "maize"})
    return SetrForSemanticSegmentation(config).eval()


def normalized(photo, normalization):
    mean, std = (torch.tensor(values)[:, None, None] for values in (normalization.mean, normalization.std))
    return ((photo - mean) / std)[None]


@pytest.mark.parametrize("suffix", [".npy", ".tif"])
@pytest.mark.parametrize("dtype", ["uint8", "uint16", "float32"])
@pytest.mark.parametrize("num_bands", [1, 4, 8, 13])
def test_a_training_step_from_a_folder(tmp_path, num_bands, dtype, suffix):
    data = load_segmentation_data(band_folder(tmp_path, num_bands, dtype, suffix), "train")
    assert data.num_bands == num_bands
    mean, std = band_statistics(checked_samples(data))
    scale = 1 if dtype == "float32" else np.iinfo(dtype).max
    pixels = np.concatenate([sample.photo.reshape(-1, num_bands) / scale for sample in data])
    np.testing.assert_allclose(mean, pixels.mean(axis=0), rtol=1e-5)
    np.testing.assert_allclose(std, pixels.std(axis=0), rtol=1e-5)

    examples = training_examples(data, training_transform((32, 32), (0.5, 2.0), None, mean, std))
    batch = collate([examples[0], examples[1]])
    assert batch["pixel_values"].shape == (2, num_bands, 32, 32) and batch["pixel_values"].dtype == torch.float32
    config = SetrConfig(**SIZES, image_size=32, num_channels=num_bands, **data.label_set.config_fields)
    model = SetrForSemanticSegmentation(config)
    model(**batch).loss.backward()
    assert model.setr.embeddings.patch_embeddings.weight.grad.abs().sum() > 0


def test_augmentation_moves_all_bands_and_the_label_map_alike():
    label_map = np.random.default_rng(0).integers(0, 4, (60, 80)).astype(np.uint8).repeat(2, 0)
    bands = np.stack([label_map] * 7, axis=-1).astype(np.float32)
    transform = training_transform((32, 48), (1.0, 1.0), None, [0.0] * 7, [1.0] * 7)
    image, mask = transform(
        tv_tensors.Image(torch.from_numpy(bands).permute(2, 0, 1)), tv_tensors.Mask(torch.from_numpy(label_map))
    )
    assert all(torch.equal(band, mask.float()) for band in image.as_subclass(torch.Tensor))
    with pytest.raises(SetrError, match="it has 7 bands, but image_mean has 4"):
        transform.transforms[-1].__class__((200, 200), [0.0] * 4, [1.0] * 4)(
            tv_tensors.Image(torch.zeros(7, 8, 8)), tv_tensors.Mask(torch.zeros(8, 8, dtype=torch.uint8))
        )


def test_columns_of_arrays(tmp_path):
    bands = np.random.default_rng(0).integers(0, 65536, (2, 12, 10, 5)).astype(np.uint16)
    features = {"image": Array3D((12, 10, 5), "uint16"), "label": ImageFeature(), "name": Value("string")}
    rows = {"image": list(bands), "label": [Image.new("L", (10, 12))] * 2, "name": ["a", "b"]}
    Dataset.from_dict(rows, Features(features)).to_parquet(tmp_path / "train.parquet")
    (tmp_path / "labels.json").write_text('{"id2label": {"0": "soil", "1": "wheat"}}')
    for streaming in (False, True):
        data = load_segmentation_data(tmp_path, "train", streaming=streaming)
        samples = list(data)
        assert data.num_bands == 5 and [sample.name for sample in samples] == ["a", "b"]
        assert all(np.array_equal(sample.photo, photo) for sample, photo in zip(samples, bands))
        assert samples[0].photo.dtype == np.uint16 and samples[0].label_map.shape == (12, 10)


@pytest.mark.parametrize("num_bands", [1, 2, 3, 4, 13])
def test_an_inflated_model_gives_the_same_logits_on_rgb_content(num_bands):
    model = rgb_model()
    random = np.random.default_rng(num_bands)
    bands = Normalization(random.uniform(0.1, 0.6, num_bands).tolist(), random.uniform(0.1, 0.4, num_bands).tolist())
    photo = torch.rand(num_bands, 32, 48)
    if num_bands < 3:
        photo[:] = photo[:1]  # Gray in all bands.
    rgb = photo[:3] if num_bands >= 3 else photo[:1].expand(3, -1, -1)
    with torch.no_grad():
        expected = model(normalized(rgb, RGB)).logits
        inflate_model(model, RGB, bands)
        assert model.config.num_channels == num_bands
        torch.testing.assert_close(model(normalized(photo, bands)).logits, expected, rtol=0, atol=1e-5)


def test_an_encoder_is_inflated():
    vit = ViTModel(ViTConfig(**SIZES, image_size=32), add_pooling_layer=False).eval()
    rgb, bands = rgb_model(), Normalization([0.2] * 6, [0.1] * 6)
    load_encoder(rgb, vit)
    model = SetrForSemanticSegmentation(SetrConfig(**SIZES, image_size=32, num_channels=6)).eval()
    report = load_encoder(model, vit, bands=bands)
    assert report.num_loaded == report.num_parameters
    photo = torch.rand(6, 32, 32)
    with torch.no_grad():
        expected = rgb.setr(normalized(photo[:3], RGB)).last_hidden_state
        torch.testing.assert_close(model.setr(normalized(photo, bands)).last_hidden_state, expected, atol=1e-5, rtol=0)
    with pytest.raises(SetrError, match=r"kernels of the shape \(8, 4, 2, 2\) cannot be inflated"):
        inflate_input_channels(torch.zeros(8, 4, 2, 2), 6)


def test_jobs_from_training_to_label_maps(tmp_path, capfd, monkeypatch):
    monkeypatch.chdir(tmp_path)
    band_folder(tmp_path / "fields", 4, "uint16", ".tif")
    rgb_model().save_pretrained("rgb")
    SetrImageProcessor(do_split_image=True, do_resize=False, crop_size=32, stride=20).save_pretrained("rgb")
    common = ["--dataset", "fields", "--max-steps", 1, "--per-device-train-batch-size", 2, "--report-to", "none"]
    assert run("train", *common, "--model", "rgb", "--output-dir", "out") == 0
    said = capfd.readouterr().out
    assert "4, as the photos have; the model's RGB kernels are inflated; colour distortion" in said
    processor = SetrImageProcessor.from_pretrained("out")
    mean, std = band_statistics(load_segmentation_data("fields", "train"))
    assert ([*processor.image_mean], [*processor.image_std], processor.rescale_factor) == (mean, std, None)
    assert "| bands | 4 |" in (tmp_path / "out/README.md").read_text()
    assert run("evaluate", "--dataset", "fields", "--model", "out", "--output", "scores") == 0
    for options in ([], ["--full-size"]):
        output = f"maps{len(options)}"
        assert run("predict", "fields/images/val", "--model", "out", "--output", output, *options) == 0
    with rasterio.open("maps1/field_0_labels.tif") as whole:
        assert np.array_equal(whole.read(1), np.asarray(Image.open("maps0/field_0.png")))
    report = run("doctor", "fields", "--json")
    said = capfd.readouterr().out
    assert report == 0 and not {"deep_photo", "alpha_photo", "corrupt_photo"} & set(said.split('"'))

    # One of another number of bands is named.
    write_photo(tmp_path / "fields/images/train/field_1.tif", np.zeros((40, 56, 5), np.uint16))
    with pytest.raises(SetrError, match=r"image of field_1 .*field_1.tif.* it has 5 channels, but image_mean has 4"):
        run("train", *common, "--model", "out", "--output-dir", "other")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--image-mean", "0.5"], "belong together"),
        (["--image-mean", "0.5", "--image-std", "0"], "image_std must hold positive numbers"),
        (["--image-mean", "nan", "--image-std", "1"], "--image-mean and --image-std: image_mean"),
        (["--image-mean", "1", "1", "--image-std", "1"], "image_mean is for 2 channels and image_std for 1"),
        (["--image-mean", "1", "1", "--image-std", "1", "1"], "--image-mean has 2 numbers, but the photos have 4"),
        (["--streaming"], "the 4 bands of a stream are not measured"),
    ],
)
def test_normalizations_that_cannot_be_used_are_refused(tmp_path, options, message):
    band_folder(tmp_path / "fields", 4, "uint8", ".npy")
    config = json.dumps({**SIZES, "image_size": 32})
    common = ["--dataset", tmp_path / "fields", "--config", config, "--max-steps", 1, "--crop-size", 32]
    with pytest.raises(SetrError, match=message):
        run("train", *common, "--output-dir", tmp_path / "out", *options)


def save_backbone(kind, folder):
    sizes = {**SIZES, "image_size": 32, "patch_size": 16}
    if kind == "timm":
        told = {"mean": [0.5] * 3, "std": [0.5] * 3, "input_size": [3, 224, 224]}
        arguments = {"depth": 4, "embed_dim": 32, "num_heads": 4}
        config = TimmWrapperConfig(architecture="vit_tiny_patch16_224", model_args=arguments, pretrained_cfg=told)
        TimmWrapperForImageClassification(config).save_pretrained(folder)
    else:
        AutoModel.from_config(CONFIG_MAPPING[kind](**sizes)).save_pretrained(folder)


@pytest.mark.parametrize("num_bands", [1, 5])
@pytest.mark.parametrize("kind", ["vit", "dinov2", "timm"])
def test_the_kernels_of_a_backbone_are_inflated(tmp_path, kind, num_bands):
    save_backbone(kind, tmp_path)
    rgb = SetrForSemanticSegmentation.from_backbone(tmp_path, num_labels=3)
    bands = Normalization([0.2, 0.4, 0.3, 0.6, 0.7][:num_bands], [0.3, 0.2, 0.4, 0.5, 0.1][:num_bands])
    config = SetrConfig(backbone_config=with_channels(rgb.config.backbone_config, num_bands), num_labels=3)
    model = SetrForSemanticSegmentation(config).eval()
    model.load_backbone(tmp_path, partial(inflate_projection, rgb=RGB, bands=bands))
    assert model.config.num_channels == num_bands
    photo = torch.rand(num_bands, 48, 32)
    same = photo[:3] if num_bands >= 3 else photo.expand(3, -1, -1)
    with torch.no_grad():
        found = model.backbone(normalized(photo, bands)).feature_maps
        expected = rgb.backbone(normalized(same, RGB)).feature_maps
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)


def test_a_backbone_without_a_bias_stays_with_rgb(tmp_path):
    save_backbone("clip_vision_model", tmp_path)
    rgb = SetrForSemanticSegmentation.from_backbone(tmp_path)
    model = SetrForSemanticSegmentation(SetrConfig(backbone_config=with_channels(rgb.config.backbone_config, 4)))
    inflate = partial(inflate_projection, rgb=RGB, bands=Normalization([0.5] * 4, [0.2] * 4))
    with pytest.raises(ValueError, match="is not a convolution with a bias: it stays with RGB"):
        model.load_backbone(tmp_path, inflate)


def test_a_run_from_a_backbone_on_four_bands(tmp_path, capsys):
    save_backbone("vit", tmp_path / "vit")
    folder, output = band_folder(tmp_path / "data", 4, "uint16", ".tif"), tmp_path / "out"
    arguments = ("--backbone", tmp_path / "vit", "--output-dir", output, "--max-steps", 1, "--use-cpu")
    run("train", "--dataset", folder, *arguments, "--report-to", "none", "--num-prediction-pictures", 0)
    assert "RGB kernels inflated" in capsys.readouterr().out
    model = SetrForSemanticSegmentation.from_pretrained(output)
    assert model.config.backbone_config.num_channels == model.config.num_channels == 4
