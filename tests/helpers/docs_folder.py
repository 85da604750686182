"""The names that README.md and docs/ use, as small real things: photos, data sets, models, checkpoints and a Hub."""

import json
from tempfile import TemporaryDirectory

import numpy as np
import rasterio
import torch
from local_hub import Repository, read_folder
from model_folders import NAMES, save_model
from paths import ROOT
from PIL import Image
from transformers import CLIPConfig, CLIPModel, Dinov2Config, Dinov2Model, DINOv3ViTConfig, DINOv3ViTModel

from setr_hf import SetrForSemanticSegmentation, SetrImageProcessor
from setr_hf.cards.model_card import ModelFacts, write_model_card
from setr_hf.checkpoints.export import write_public_checkpoint
from setr_hf.data.public_datasets import CLASS_NAMES
from setr_hf.data.scenes import CLASSES, make_scenes
from setr_hf.hub.publish import staged


SIZES = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64}
PUBLISHED = "me/setr"


def write_data(folder, to_photo=None, to_ids=None, names=CLASSES):
    """Six scenes for training and three for validation."""
    for split, count, first_seed in (("train", 6, 0), ("val", 3, 100)):
        for kind in ("images", "annotations"):
            (folder / kind / split).mkdir(parents=True)
        for scene in make_scenes(count, first_seed).rows:
            name = scene["name"]
            if to_photo is None:
                scene["image"].save(folder / f"images/{split}/{name}.jpg")
            else:
                write_tiff(folder / f"images/{split}/{name}.tif", to_photo(np.asarray(scene["image"])))
            ids = np.asarray(scene["annotation"])
            Image.fromarray(ids if to_ids is None else to_ids(ids)).save(folder / f"annotations/{split}/{name}.png")
    (folder / "labels.json").write_text(json.dumps({"id2label": dict(enumerate(names))}))


def write_tiff(path, bands):
    """`bands` are `(height, width, bands)`."""
    options = {"height": bands.shape[0], "width": bands.shape[1], "count": bands.shape[2], "dtype": bands.dtype.name}
    with rasterio.open(path, "w", driver="GTiff", **options) as file:
        file.write(np.moveaxis(bands, -1, 0))


def four_bands(photo):
    return np.concatenate([photo, photo[..., :1]], axis=-1).astype(np.uint16) * 257


def write_scene_parse_150(hub):
    """ADE20K's benchmark as the Hub has it: with a script and converted files, and as files alone."""
    (hub / "zhoubolei/scene_parse_150").mkdir(parents=True)
    (hub / "zhoubolei/scene_parse_150/scene_parse_150.py").write_text("raise AssertionError('not to be run')\n")
    rows = make_scenes(3).rows.remove_columns("name")
    for file in (
        "zhoubolei/scene_parse_150@refs_convert_parquet/scene_parsing/train/0000.parquet",
        "merve/scene_parse_150/data/train-00000-of-00001.parquet",
    ):
        (hub / file).parent.mkdir(parents=True)
        rows.to_parquet(hub / file)


def learn(folder):
    """Trains a saved model on a few scenes until it is better than chance."""
    model = SetrForSemanticSegmentation.from_pretrained(folder).train()
    scenes = make_scenes(6).rows
    inputs = SetrImageProcessor.from_pretrained(folder)(
        list(scenes["image"]), segmentation_maps=list(scenes["annotation"]), do_split_image=False,
        size={"height": 32, "width": 40}, return_tensors="pt",
    )  # fmt: skip
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    for _ in range(30):
        model(**inputs).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    model.save_pretrained(folder)
    facts = ModelFacts("setr-mine", introduction="A small SETR.", license_text="yours")
    write_model_card(folder, facts, model.config, SetrImageProcessor.from_pretrained(folder))


def write_photos(folder):
    photos = [scene["image"] for scene in make_scenes(4, 200).rows]
    (folder / "photos/deeper").mkdir(parents=True)
    (folder / "more").mkdir()
    photos[0].save(folder / "photo.jpg")
    photos[1].save(folder / "photos/one.jpg")
    photos[2].save(folder / "photos/deeper/two.png")
    photos[3].save(folder / "more/three_left.jpg")
    write_tiff(folder / "city.tif", np.asarray(photos[0]))
    write_tiff(folder / "scene.tif", four_bands(np.asarray(photos[1])))


def write_checkpoint(path, implementation, names, fields):
    """A file of another implementation, with the decoder's published width and heads of the published size."""
    with TemporaryDirectory() as folder:
        save_model(
            folder, names, **{"hidden_size": 64, "num_attention_heads": 1, "decoder_hidden_size": 256, **fields}
        )
        write_public_checkpoint(folder, path, implementation)


def write_docs_folder(folder, hub):
    """`hub` becomes a folder of models for a local Hub."""
    write_photos(folder)
    write_data(folder / "mine")
    write_data(folder / "cracks", to_ids=lambda ids: (ids == 1).astype(np.uint8), names=["wall", "crack"])
    write_data(folder / "fields", to_photo=four_bands)
    mla = {"num_hidden_layers": 4, "decoder_type": "mla", "mla_hidden_size": 8, "auxiliary_out_indices": None}
    for index, name in enumerate(("outputs/demo", "outputs/a", "outputs/b", "outputs/mine")):
        save_model(folder / name, CLASSES, seed=index, **mla)
    learn(folder / "outputs/mine")
    ade20k = CLASS_NAMES["ade20k"]
    save_model(folder / "setr-mla-ade20k", ade20k, **mla)
    write_checkpoint(folder / "SETR_MLA_160k.pth", "original", ade20k, mla | {"mla_hidden_size": 128})
    own = {"num_attention_heads": 8, "num_hidden_layers": 6, "auxiliary_out_indices": [3, 5, 6]}
    write_checkpoint(folder / "iter_80000.pth", "mmseg", NAMES, own | {"decoder_scale_factor": 4})
    (folder / "names.json").write_text(json.dumps({"id2label": dict(enumerate(NAMES))}))
    for name in ("src", "scripts"):
        (folder / name).symlink_to(ROOT / name)

    write_scene_parse_150(hub)
    Dinov2Model(Dinov2Config(**SIZES, image_size=56, patch_size=14)).save_pretrained(hub / "facebook/dinov2-base")
    dinov3 = DINOv3ViTModel(DINOv3ViTConfig(**SIZES, image_size=64))
    dinov3.save_pretrained(hub / "facebook/dinov3-vitl16-pretrain-lvd1689m")
    text = {**SIZES, "num_hidden_layers": 1}
    clip = CLIPConfig(text_config=text, vision_config={**SIZES, "image_size": 64, "patch_size": 16}, projection_dim=32)
    CLIPModel(clip).save_pretrained(hub / "openai/clip-vit-base-patch16")


def published(folder):
    """The repository that publishing a folder makes."""
    repository = Repository()
    with staged(folder, PUBLISHED, "v1.0") as files:
        repository.commit(read_folder(files))
    repository.refs["refs/tags/v1.0"] = repository.refs["refs/heads/main"]
    return repository
