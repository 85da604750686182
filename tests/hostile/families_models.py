"""Configurations, settings of image processors, and folders of models."""

import json
import shutil
import tempfile
from functools import cache
from pathlib import Path

import torch
from hostile import Attempt, family
from huggingface_hub.errors import StrictDataclassError
from mutations import any_value, as_json, nested, with_changes, with_damage
from PIL import Image
from safetensors.torch import load_file, save_file
from small_models import FIELDS, SETTINGS, check_label_map, noise, small_model, small_processor

from setr_hf import (
    SetrConfig,
    SetrForSemanticSegmentation,
    SetrImageProcessor,
    SetrImageProcessorPil,
    add_lora,
    merge_adapter,
)
from setr_hf.errors import SetrError
from setr_hf.inference.loading import load_model
from setr_hf.inference.sliding_windows import segment
from setr_hf.training.adapters import save_adapter


# A network that may be built and run here; larger ones are only configured.
MOST_PARAMETERS = 2 * 10**7
MORE_FIELDS = [
    {"decoder_type": "pup", "auxiliary_out_indices": []},
    {"decoder_type": "mla", "out_indices": [1, 2], "auxiliary_out_indices": [1, 2]},
    {"palette": [[0, 0, 0], [1, 2, 3], [255, 255, 255]], "semantic_loss_ignore_index": 255, "dataset": "ade20k"},
    {"decoder_kernel_size": 3, "decoder_num_convs": 2, "decoder_scale_factor": 2, "drop_path_rate": 0.1},
    {"image_size": [32, 48], "patch_size": 8, "num_channels": 3, "layer_norm_eps": 1e-6, "qkv_bias": False},
    {"num_labels": 1, "semantic_loss": {"focal": 1.0, "dice": 0.5}, "semantic_loss_focal_alpha": 0.25},
    {"semantic_loss": {"cross_entropy": 1.0, "ohem": 2}, "semantic_loss_class_weights": [1, 2.5, 0.5]},
    {"backbone_config": {"model_type": "dinov2", "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}},
]


@torch.no_grad()
def check_configuration(config):
    """It can be saved and read, and its network gives scores of every class."""
    assert SetrConfig.from_dict(json.loads(config.to_json_string(use_diff=False))).num_labels == config.num_labels
    with torch.device("meta"):
        network = SetrForSemanticSegmentation(config)
    if network.num_parameters() < MOST_PARAMETERS and config.num_hidden_layers < 50:
        model = SetrForSemanticSegmentation(config).eval()
        logits = model(torch.zeros(1, config.num_channels, 20, 30)).logits
        assert logits.shape[:2] == (1, config.num_labels) and logits.isfinite().all()


@family(count=1_000)
def configurations(random, folder):
    content = with_changes(random, FIELDS | random.choice(MORE_FIELDS))
    fields = content if isinstance(content, dict) else {"hidden_size": content}
    refusals = (ValueError, StrictDataclassError)
    return Attempt(f"{fields}", lambda: checked_configuration(fields), refusals=refusals)


def checked_configuration(fields):
    """What contradicts the decoder shows only when the model is built."""
    config = SetrConfig(**fields)
    check_configuration(config)
    return config


@family(count=1_000, mebibytes=1500)
def settings_of_image_processors(random, folder):
    content = with_changes(
        random, SETTINGS | {"do_resize": True, "rescale_factor": 1 / 255, "resample": 2, "temperature": 1.5}
    )
    settings = content if isinstance(content, dict) else {"size": content}
    processor_class = random.choice([SetrImageProcessor, SetrImageProcessorPil])
    photo = Image.fromarray(noise(random, random.choice([1, 20, 70]), random.choice([1, 30, 90])))
    is_saved = random.random() < 0.5

    def run():
        processor = processor_class(**settings)
        if is_saved:
            processor.save_pretrained(folder)
            processor = processor_class.from_pretrained(folder)
        [(label_map, confidence)] = segment(small_model(), processor, [photo], return_confidence=True)
        assert ((confidence > 0) & (confidence <= 1)).all()
        return label_map

    refusals = (ValueError,)
    return Attempt(
        f"{processor_class.__name__}: {settings}", run, lambda result: check_label_map(result, photo), refusals
    )


@cache
def saved_model():
    """A folder that is removed when the process ends."""
    folder = tempfile.TemporaryDirectory(prefix="hostile-model-")
    small_model().save_pretrained(folder.name)
    small_processor().save_pretrained(folder.name)
    return folder


def hostile_weights(random, path):
    tensors = load_file(path)
    key = random.choice(sorted(tensors))
    kind = random.randrange(6)
    if kind == 0:
        del tensors[key]
    elif kind == 1:
        tensors[key + random.choice(["", ".bias", "2"])] = torch.zeros(random.choice([(), (0,), (2,), (3, 3)]))
    elif kind == 2:
        tensors[key] = tensors[key].float() * random.choice([torch.nan, torch.inf, 1e38])
    elif kind == 3:
        tensors[key] = tensors[key].to(random.choice([torch.int8, torch.float16, torch.bfloat16, torch.float64]))
    elif kind == 4:
        tensors[random.choice(["", "x" * 3000, "setr", "a\nb"])] = tensors.pop(key)
    save_file(tensors, path, random.choice([{"format": "pt"}, {"format": "tf"}, None]))
    if kind == 5:
        path.write_bytes(with_damage(random, path.read_bytes()))


def damage(random, path):
    """Removes, replaces or changes a file of JSON or weights. Returns what was done to it."""
    kind = random.randrange(8)
    if kind == 0:
        path.unlink()
        return f"no {path.name}"
    if path.suffix == ".safetensors":
        hostile_weights(random, path)
    elif kind <= 4:
        path.write_bytes(as_json(with_changes(random, json.loads(path.read_text()))))
    elif kind == 5:
        path.write_bytes(with_damage(random, path.read_bytes()))
    elif kind == 6:
        path.write_bytes(nested(random, *random.choice([(b"[", b"]"), (b'{"a":', b"}")])))
    else:
        path.write_bytes(as_json(any_value(random)))
    return f"{path.name}: {path.read_bytes()[:300]!r}"


@family(count=700)
def model_folders(random, folder):
    folder = folder / "model"
    shutil.copytree(saved_model().name, folder)
    what = damage(random, folder / random.choice(["config.json", "preprocessor_config.json", "model.safetensors"]))
    photo = Image.fromarray(noise(random, 20, 30))

    def run():
        model, processor = load_model(folder)
        return model, segment(model, processor, [photo])[0]

    def check(result):
        check_label_map(result[1], photo, len(result[0].config.id2label))

    return Attempt(what, run, check, refusals=(SetrError,))


@cache
def saved_adapter():
    """A folder that is removed when the process ends; its base is [`small_model`]."""
    folder = tempfile.TemporaryDirectory(prefix="hostile-adapter-")
    model = add_lora(SetrForSemanticSegmentation.from_pretrained(saved_model().name), rank=1)
    save_adapter(model, Path(folder.name))
    return folder


@family(count=300)
def adapters(random, folder):
    folder = folder / "adapter"
    shutil.copytree(saved_adapter().name, folder)
    what = damage(random, folder / random.choice(["adapter_config.json", "network.json", "adapter_model.safetensors"]))

    def check(model):
        with torch.no_grad():
            assert model(torch.zeros(1, 3, 32, 32)).logits.isfinite().all()

    return Attempt(what, lambda: merge_adapter(folder, base=small_model()), check, refusals=(SetrError,))
