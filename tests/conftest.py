"""What tests share: small models whose labels vary over an image, and the folder of real photographs."""

import json
import os
from pathlib import Path

import pytest
import torch

from setr_hf import SetrConfig, SetrForSemanticSegmentation
from setr_hf.data.scenes import CLASSES, make_scenes


TINY = {
    "hidden_size": 32,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "intermediate_size": 64,
    "image_size": 64,
    "num_labels": 5,
    "decoder_hidden_size": 16,
    "mla_hidden_size": 8,
}


def pytest_collection_modifyitems(config, items):
    """Leaves the large runs to `-m long` and `-m hostile`: `-m "not slow"` must not take them in."""
    large = [marker for marker in ("long", "hostile") if marker not in config.option.markexpr]
    left_out = [item for item in items if any(map(item.get_closest_marker, large))]
    if left_out:
        config.hook.pytest_deselected(items=left_out)
        items[:] = [item for item in items if item not in left_out]


@pytest.fixture(autouse=True)
def fixed_seed():
    torch.manual_seed(0)


@pytest.fixture
def new_compiler():
    """torch.compile as in a new process. It counts the graphs of all models of a class together, and has a limit."""
    torch.compiler.reset()
    yield
    torch.compiler.reset()


@pytest.fixture
def tiny_config():
    """A function that makes a small `SetrConfig`; arguments override fields."""
    return lambda **fields: SetrConfig(**{**TINY, **fields})


@pytest.fixture
def tiny_model(tiny_config):
    """A function that makes a small model in eval mode, with weights so large that every layer shows in the logits."""

    def make(**fields):
        model = SetrForSemanticSegmentation(tiny_config(**fields)).eval()
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                if parameter.ndim > 1:
                    parameter.normal_(std=0.5 if "embeddings" in name else parameter[0].numel() ** -0.5)
            for name, buffer in model.named_buffers():
                if name.endswith("running_mean"):
                    buffer.normal_(std=0.1)
                elif name.endswith("running_var"):
                    buffer.uniform_(0.8, 1.2)
        return model

    return make


@pytest.fixture
def scene_folder(tmp_path):
    """Four generated scenes for training and four for validation, as a user's own folder of images and annotations."""
    for split, first_seed in (("train", 0), ("val", 100)):
        scenes = make_scenes(4, first_seed).rows
        for kind, suffix, column in (("images", "jpg", "image"), ("annotations", "png", "annotation")):
            (tmp_path / "data" / kind / split).mkdir(parents=True)
            for row in scenes:
                row[column].save(tmp_path / "data" / kind / split / f"{row['name']}.{suffix}")
    names = {"id2label": dict(enumerate(CLASSES))}
    (tmp_path / "data/labels.json").write_text(json.dumps(names))
    return tmp_path / "data"


@pytest.fixture(scope="session")
def data_folder():
    """The folder with `camvid` and `ade20k_sample`, from the environment variable SETR_HF_DATA."""
    folder = os.environ.get("SETR_HF_DATA")
    if not folder:
        pytest.skip("set SETR_HF_DATA to the folder with camvid and ade20k_sample to run this test")
    return Path(folder)


@pytest.fixture(scope="session")
def photos(data_folder):
    """Paths of real photographs of several sizes, portrait and landscape."""
    ade20k = sorted((data_folder / "ade20k_sample/ADEChallengeData2016/images/validation").glob("*.jpg"))
    camvid = sorted((data_folder / "camvid/images/val").iterdir())[:2]
    return [str(path) for path in ade20k + camvid]
