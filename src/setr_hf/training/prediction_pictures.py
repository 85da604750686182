"""Pictures of what a model in training predicts: photo, truth and prediction of a few photographs."""

from pathlib import Path

import numpy as np
from PIL import Image, ImageOps
from transformers import PreTrainedConfig, TrainerCallback
from transformers.integrations import TensorBoardCallback, TrackioCallback

from ..inference.pictures import class_colors, comparison_sheet


class PredictionSamples:
    """
    Keeps a few of the photographs that a process segments one after the other, evenly spread over all of them.

    Args:
        num_samples (`int`): How many to keep.
        num_images (`int`, *optional*): How many the process will see; `None` if that is not known, and the first ones
            are kept.
    """

    def __init__(self, num_samples: int, num_images: int | None):
        last = (num_samples if num_images is None else num_images) - 1
        self.positions = set(np.linspace(0, max(last, 0), num_samples).astype(int).tolist())
        self.num_seen = 0
        self.samples = []

    def add(self, photo: Image.Image, truth: np.ndarray, prediction: np.ndarray):
        """The next photograph with its true and predicted label map."""
        if self.num_seen in self.positions:
            self.samples.append((ImageOps.exif_transpose(photo), truth, prediction))
        self.num_seen += 1

    def sheet(self, config: PreTrainedConfig) -> Image.Image:
        """A picture of all samples, a row for each."""
        return comparison_sheet(self.samples, class_colors(config), config.id2label)


def publish_picture(picture: Image.Image, name: str, path: Path, step: int, callbacks: list[TrainerCallback]):
    """Saves a picture, and sends it to TensorBoard and trackio where their callbacks are at work."""
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_suffix(".unfinished.png")
    picture.save(unfinished)
    unfinished.replace(path)
    for callback in callbacks:
        if isinstance(callback, TensorBoardCallback) and callback.tb_writer is not None:
            callback.tb_writer.add_image(name, np.asarray(picture), step, dataformats="HWC")
        elif isinstance(callback, TrackioCallback) and callback._initialized:
            image = callback._trackio.Image(picture)
            callback._trackio.log({name: image, "train/global_step": step})
