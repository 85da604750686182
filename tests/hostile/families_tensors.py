"""Arrays and tensors of any type, shape and range: through the image processors, the models and post-processing."""

import numpy as np
import torch
from hostile import Attempt, family
from mutations import any_value
from PIL import Image
from small_models import check_label_map, noise, small_model, small_processor

from setr_hf import SetrImageProcessor, SetrImageProcessorPil
from setr_hf.errors import SetrError
from setr_hf.inference.sliding_windows import segment
from setr_hf.model.modeling_setr import SetrSemanticSegmenterOutput


DTYPES = ["uint8", "int8", "uint16", "int16", "int32", "int64", "uint64", "bool", "float16", "float32", "float64"]
DTYPES += ["complex64", "object", "U3", "datetime64[s]"]
RANGES = [1, 1 / 255, 257, 1 / 40, -1, 1e30, 0]
TORCH_DTYPES = [torch.uint8, torch.int64, torch.bool, torch.float16, torch.bfloat16, torch.float32, torch.float64]
TORCH_DTYPES += [torch.complex64, torch.uint16]


def any_array(random):
    shape = [random.choice([0, 1, 2, 3, 4, 5, 17, 40]) for _ in range(random.choice([1, 2, 3, 3, 3, 3, 4, 5]))]
    if random.random() < 0.6:
        shape[random.choice([0, -1])] = random.choice([1, 3, 4])
    values = np.random.default_rng(random.randrange(2**31)).integers(0, 256, shape) * random.choice(RANGES)
    if values.size and values.dtype.kind == "f" and random.random() < 0.2:
        values.flat[0] = random.choice([np.nan, np.inf])
    with np.errstate(all="ignore"):
        if random.random() < 0.5:
            return torch.from_numpy(values).to(random.choice(TORCH_DTYPES))
        return values.astype(random.choice(DTYPES))


def any_images(random):
    kind = random.randrange(6)
    if kind <= 2:
        return any_array(random)
    if kind == 3:
        return any_value(random)
    valid = Image.fromarray(noise(random, 20, 30))
    return [random.choice([valid, valid, any_array(random), any_value(random)]) for _ in range(random.randrange(4))]


def check_inputs(inputs):
    name = "pixel_windows" if "pixel_windows" in inputs else "pixel_values"
    pixels = inputs[name]
    assert pixels.isfinite().all() and 0 not in pixels.shape
    model = small_model()
    if pixels.is_floating_point() and pixels.abs().max() < 1000:
        with torch.no_grad():
            assert model(**inputs).logits.isfinite().all()


@family(count=1_000)
def images(random, folder):
    images = any_images(random)
    settings = {"size": {"shortest_edge": 32, "longest_edge": 64}, "crop_size": 32, "stride": 21}
    settings |= {"do_split_image": random.random() < 0.7, "antialias": random.random() < 0.5}
    if not settings["do_split_image"]:
        settings["size"] = 32
    settings |= {name: False for name in ("do_rescale", "do_normalize", "do_resize") if random.random() < 0.2}
    processor = random.choice([SetrImageProcessor, SetrImageProcessorPil])(**settings)
    what = f"{type(processor).__name__} {settings}: {getattr(images, 'dtype', type(images))} "
    what += str(getattr(images, "shape", ""))
    return Attempt(what, lambda: processor(images, return_tensors="pt"), check_inputs, refusals=(ValueError,))


@family(count=500)
def photos_of_segment(random, folder):
    """What is passed to `segment` from a notebook."""
    valid = Image.fromarray(noise(random, 20, 30))
    photos = [random.choice([valid, valid, any_array(random), any_value(random)]) for _ in range(random.randrange(3))]
    options = {}
    if random.random() < 0.4:
        options["scales"] = random.choice([(1.0,), (0.5, 1.5), any_value(random), (any_value(random, 0),)])
    if random.random() < 0.4:
        options["window_batch_size"] = random.choice([1, 7, any_value(random, 0)])
    if random.random() < 0.3:
        options["return_confidence"] = True

    def check(label_maps):
        assert len(label_maps) == len(photos)
        for photo, found in zip(photos, label_maps):
            label_map, confidence = found if options.get("return_confidence") else (found, torch.ones(1))
            check_label_map(label_map, photo)
            assert ((confidence > 0) & (confidence <= 1)).all()

    def run():
        return segment(small_model(), small_processor(), photos, **options)

    return Attempt(f"{photos} {options}", run, check, refusals=(SetrError,))


def any_tensor(random, shape):
    shape = list(shape)
    for _ in range(random.choice([0, 0, 1, 2])):
        shape[random.randrange(len(shape))] = random.choice([0, 1, 2, 3, 5, 33])
    if random.random() < 0.1:
        shape = shape[1:] if random.random() < 0.5 else [1, *shape]
    return torch.randn(shape).to(torch.float32 if random.random() < 0.8 else random.choice(TORCH_DTYPES))


@family(count=600)
def inputs_of_the_model(random, folder):
    inputs = {}
    kind = random.randrange(3)
    if kind == 0:
        inputs["pixel_values"] = random.choice([any_tensor(random, (2, 3, 20, 30)), any_value(random)])
    elif kind == 1:
        inputs["pixel_values"] = any_tensor(random, (2, 3, 20, 30))
        labels = any_tensor(random, (2, 20, 30))
        ids = torch.randint(random.choice([-1, 0]), random.choice([3, 3, 4, 2**40]), labels.shape)
        inputs["labels"] = random.choice([ids, labels, any_value(random)])
    else:
        inputs["pixel_windows"] = any_tensor(random, (1, 2, 3, 32, 32))
        offsets = torch.tensor([[[0, 0, 32, 32, 32, 40], [0, 8, 32, 32, 32, 40]]])
        for _ in range(random.randrange(3)):
            offsets[0, random.randrange(2), random.randrange(6)] = random.choice([0, 1, -1, 31, 33, 2**40])
        inputs["patch_offsets"] = random.choice([offsets, offsets, any_tensor(random, (1, 2, 6)), any_value(random)])

    def check(outputs):
        assert 0 not in outputs.logits.shape and outputs.logits.isfinite().all()
        assert outputs.loss is None or outputs.loss.isfinite()

    what = str({name: getattr(value, "shape", value) for name, value in inputs.items()})
    return Attempt(what, lambda: small_model()(**inputs), check, refusals=(ValueError,))


@family(count=500)
def outputs_to_post_process(random, folder):
    is_windowed = random.random() < 0.5
    logits = any_tensor(random, (1, 2, 3, 8, 8) if is_windowed else (2, 3, 8, 8)).real.float()
    if random.random() < 0.1 and logits.numel():
        logits.view(-1)[0] = random.choice([torch.nan, torch.inf])
    offsets = None
    if is_windowed:
        offsets = torch.tensor([[[0, 0, 32, 32, 32, 40], [0, 8, 32, 32, 32, 40]]])
        if random.random() < 0.3:
            offsets = offsets[:, : random.randrange(3)]
        if random.random() < 0.5:
            offsets[0, -1:, random.randrange(6)] = random.choice([0, 1, -1, 31, 33, 2**40])
    count = len(logits) if logits.ndim and random.random() < 0.8 else random.randrange(4)
    sizes = None
    if random.random() < 0.8:
        side = lambda: random.choice([1, 20, 33, 33, any_value(random, 0)])  # noqa: E731
        sizes = [(side(), side()) for _ in range(count)] if random.random() < 0.9 else any_value(random)

    def run():
        outputs = SetrSemanticSegmenterOutput(logits=logits, patch_offsets=offsets)
        return small_processor().post_process_semantic_segmentation(outputs, sizes)

    def check(label_maps):
        assert len(label_maps) == len(logits)
        for label_map, size in zip(label_maps, sizes or [None] * len(label_maps)):
            assert size is None or tuple(label_map.shape) == tuple(size)
            assert label_map.min() >= 0 and label_map.max() < logits.shape[-3]

    what = f"{tuple(logits.shape)} {None if offsets is None else offsets.tolist()} {sizes}"
    return Attempt(what, run, check, refusals=(ValueError,))
