"""Models that segment one photo at a time, within limits of size and time."""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from PIL import Image

from ..data.public_datasets import protocol_scales
from ..errors import SetrError
from ..evaluation.segmenter import load_segmenter
from ..inference.arguments import WINDOW_BATCH_SIZE, ConfidenceArguments, ProtocolArguments
from ..inference.photos import read_photo
from ..inference.predictions import Prediction
from ..inference.segmenter import Segmenter


class TimeIsUp(SetrError):
    """A photo takes longer than is allowed."""


@dataclass(frozen=True)
class Limits:
    """What strangers may ask for.

    Args:
        megabytes (`int`): Largest file.
        megapixels (`float`): Largest photo.
        seconds (`float`): Longest time for a photo and a model.
        photos (`int`): Most photos at once.
        waiting (`int`): Most photos that wait for their turn; one is segmented at a time.
    """

    megabytes: int = 20
    megapixels: float = 25.0
    seconds: float = 120.0
    photos: int = 100
    waiting: int = 20


def model_names(paths: list[str]) -> dict[str, str]:
    """What models are called, the last parts of their paths as far as these tell them apart, and their paths."""
    names = {Path(path).resolve().name if Path(path).is_dir() else path: path for path in paths}
    return names if len(names) == len(set(paths)) else {path: path for path in paths}


@dataclass
class Segmenting:
    """The models of an app by their names, each loaded at its first photo. A single photo is segmented at a time."""

    models: dict[str, str]
    limits: Limits
    device: str = "cpu"
    window_batch_size: int = WINDOW_BATCH_SIZE
    loaded: dict[str, Segmenter] = field(default_factory=dict)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def read(self, path: str | Path) -> Image.Image:
        """The photo in a file, upright and RGB. Raises a [`SetrError`], which tells nothing of the file system, if it
        cannot be read or is too large.
        """
        name = Path(path).name
        # Before it is decoded, if its header tells.
        with suppress(OSError, ValueError, Image.DecompressionBombError), Image.open(path) as header:
            self.check_extent(header, name)
        try:
            photo = read_photo(path)
        except SetrError as error:
            raise SetrError(str(error).replace(str(path), name)) from error
        self.check_extent(photo, name)
        return photo

    def check_extent(self, photo: Image.Image, name: str) -> None:
        """Raises a [`SetrError`] if a photo has too many pixels."""
        megapixels = photo.width * photo.height / 1e6
        if megapixels > self.limits.megapixels:
            raise SetrError(f"{name} has {megapixels:.1f} megapixels: {self.limits.megapixels:g} are the most")

    def segmenter(self, model: str, protocol: str) -> Segmenter:
        """The model of that name with the `protocol` "single" or "multi". Raises [`SetrError`] if the app has no such
        model, or it cannot be loaded.
        """
        if model not in self.models:
            raise SetrError(f"there is no model {model!r} here, only {', '.join(self.models)}")
        if model not in self.loaded:
            arguments = ProtocolArguments(window_batch_size=self.window_batch_size)
            self.loaded[model] = load_segmenter(self.models[model], None, arguments, self.device)
        config = self.loaded[model].model.config
        scales = protocol_scales(protocol, None, config.dataset, config.decoder_type)
        return replace(self.loaded[model], scales=scales)

    def predict(self, photo: Image.Image, model: str, protocol: str) -> tuple[Prediction, Any]:
        """What a model finds in an upright RGB photo, with its confidence, and the model's configuration. Raises
        [`TimeIsUp`] if it takes too long, and [`SetrError`] if the memory does not suffice.
        """
        with self.lock:
            segmenter = self.segmenter(model, protocol)
            with deadline(segmenter.model, self.limits.seconds):
                [prediction] = segmenter.predict([photo], ConfidenceArguments(confidence=True))
            return prediction, segmenter.model.config


@contextmanager
def deadline(model: Any, seconds: float) -> Iterator[None]:
    """Inside, the model raises [`TimeIsUp`] when it is called after that time."""
    end = time.monotonic() + seconds

    def check(*_: Any) -> None:
        if time.monotonic() > end:
            raise TimeIsUp(f"the photo takes longer than {seconds:g} seconds: choose a smaller one, or a single scale")

    hook = model.register_forward_pre_hook(check)
    try:
        yield
    finally:
        hook.remove()
