"""Pictures of what a model in training predicts: photo, ground truth and prediction of a few photos."""

from pathlib import Path

import numpy as np
from PIL import Image
from transformers import PreTrainedConfig, TrainerCallback
from transformers.integrations import TensorBoardCallback, TrackioCallback

from ..files import whole_file
from ..inference.pictures import class_colors, comparison_sheet
from ..model.photos_setr import Photo


class PredictionSamples:
    """Keeps `num_samples` photos, evenly spread over `num_images`, or the first if that is not known."""

    def __init__(self, num_samples: int, num_images: int | None) -> None:
        last = (num_samples if num_images is None else num_images) - 1
        self.positions = set(np.linspace(0, max(last, 0), num_samples).astype(int).tolist())
        self.num_seen = 0
        self.samples: list[tuple[Photo, np.ndarray, np.ndarray]] = []

    def add(self, photo: Photo, truth: np.ndarray, prediction: np.ndarray) -> None:
        """The next photo with its true and predicted label map."""
        if self.num_seen in self.positions:
            self.samples.append((photo, truth, prediction))
        self.num_seen += 1

    def sheet(self, config: PreTrainedConfig) -> Image.Image:
        """A picture of all samples, a row for each."""
        ignore_index = config.semantic_loss_ignore_index
        return comparison_sheet(self.samples, class_colors(config), config.id2label, ignore_index=ignore_index)


def publish_picture(picture: Image.Image, name: str, path: Path, step: int, callbacks: list[TrainerCallback]) -> None:
    """Saves a picture, and sends it to TensorBoard and trackio if they are reported to."""
    with whole_file(path) as unfinished:
        picture.save(unfinished)
    for callback in callbacks:
        if isinstance(callback, TensorBoardCallback) and callback.tb_writer is not None:
            callback.tb_writer.add_image(name, np.asarray(picture), step, dataformats="HWC")
        elif isinstance(callback, TrackioCallback):
            import trackio

            # The callback has just logged the scores of this evaluation, for which it opens a run.
            trackio.log({name: trackio.Image(picture), "train/global_step": step})
