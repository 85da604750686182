"""What the viewer in the browser shows, and the files that it offers."""

import base64
import io
import json
import tempfile
from collections import deque
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from transformers import PreTrainedConfig

from ..files import path_inside
from ..inference.pictures import class_colors, class_shares, overlay_with_legend
from ..inference.predictions import Prediction


# Of the pictures in the browser, in pixels; files are of the photo's size.
LONGEST_SIDE = 1280
MOST_RESULTS = 16
JPEG_QUALITY = 90


def shown_size(photo: Image.Image) -> tuple[int, int]:
    """Width and height of a photo in the browser."""
    scale = min(1.0, LONGEST_SIDE / max(photo.size))
    return max(1, round(scale * photo.width)), max(1, round(scale * photo.height))


def data_url(picture: Image.Image, kind: str, **options: Any) -> str:
    buffer = io.BytesIO()
    picture.save(buffer, kind, **options)
    return f"data:image/{kind};base64,{base64.b64encode(buffer.getvalue()).decode()}"


def packed(prediction: Prediction, size: tuple[int, int]) -> Image.Image:
    """A picture of `size` whose red and green are the low and high byte of each pixel's class id, and whose blue is
    the confidence in it, 0 to 255: what no browser changes, as it has neither a profile nor an alpha.
    """
    assert prediction.confidence is not None
    ids = np.asarray(Image.fromarray(prediction.label_map.astype(np.int32)).resize(size, Image.Resampling.NEAREST))
    confidence = Image.fromarray(np.rint(prediction.confidence * 255).astype(np.uint8))
    blue = np.asarray(confidence.resize(size, Image.Resampling.NEAREST))
    return Image.fromarray(np.stack([ids & 255, ids >> 8, blue], axis=-1).astype(np.uint8))


def shown_prediction(name: str, prediction: Prediction, config: PreTrainedConfig, size: tuple[int, int]) -> dict:
    """A model's result: its classes, the largest first, with their colours and shares of the area, and the picture of
    [`packed`].
    """
    assert prediction.confidence is not None
    colors, num_pixels = class_colors(config), prediction.label_map.size
    classes = [
        {"id": index, "name": config.id2label[index], "color": colors[index], "share": share}
        for index, share in class_shares(prediction.label_map).items()
    ]
    return {
        "model": name,
        "classes": classes,
        "confidence": float(prediction.confidence.mean(dtype=np.float64)),
        "pixels": num_pixels,
        "map": data_url(packed(prediction, size), "png"),
    }


def shown_photo(photo: Image.Image, results: list[dict]) -> str:
    """The value of the viewer: a photo and the results of one or two models, as JSON."""
    width, height = shown_size(photo)
    picture = photo.resize((width, height), Image.Resampling.BICUBIC)
    content = {"width": width, "height": height, "photo": data_url(picture, "jpeg", quality=JPEG_QUALITY)}
    return json.dumps({**content, "results": results})


class ResultFiles:
    """The files of the latest results, in a folder that ends with the process; older ones are deleted."""

    def __init__(self) -> None:
        self.folder = tempfile.TemporaryDirectory(prefix="setr-app-")
        self.results: deque[tempfile.TemporaryDirectory] = deque()

    def write(self, stem: str, prediction: Prediction, config: PreTrainedConfig) -> tuple[str, str]:
        """Writes the label map, and the overlay with a legend, as PNGs of the photo's size; returns their paths."""
        while len(self.results) >= MOST_RESULTS:
            self.results.popleft().cleanup()
        self.results.append(tempfile.TemporaryDirectory(dir=self.folder.name))
        folder = Path(self.results[-1].name)
        label_map, overlay = (path_inside(folder, f"{stem}_{kind}", ".png") for kind in ("labels", "overlay"))
        Image.fromarray(prediction.label_map).save(label_map)
        colors = class_colors(config)
        overlay_with_legend(prediction.photo, prediction.label_map, colors, config.id2label).save(overlay)
        return str(label_map), str(overlay)
