"""Examples and batches for training and evaluation from a segmentation data set."""

import logging
import zlib
from collections.abc import Iterator
from functools import partial
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from torchvision.transforms import v2

from ..errors import SetrError
from ..model.image_processing_setr import IGNORED_LABEL
from .augmentation import to_tv_tensors
from .rows import SegmentationData, each_row


logger = logging.getLogger(__name__)

# Encoded rows that a stream holds to draw the next one from.
SHUFFLE_BUFFER_SIZE = 1000


class Augmented:
    """What [`TrainingExamples`] and [`StreamingExamples`] share; for the arguments see [`training_examples`]."""

    def __init__(
        self, data: SegmentationData, transform: v2.Transform, seed: int = 0, ignore_index: int = IGNORED_LABEL
    ) -> None:
        data.check_annotations()
        self.data = data
        self.transform = transform
        self.seed = seed
        self.ignore_index = ignore_index
        # Shared with workers that were started in an earlier epoch and are kept.
        self.epoch = torch.zeros((), dtype=torch.int64).share_memory_()

    def set_epoch(self, epoch: int) -> None:
        """Changes the augmentation; to be called before the first example of each epoch is read."""
        self.epoch.fill_(epoch)

    def example(self, row: dict, *state: int) -> dict[str, Any]:
        """The example of an [`undecoded`] row. Augmentation draws from torch's global generator, which is left as it
        was; what it draws depends on the seed and the numbers of `state` alone. Raises [`SetrError`] for a bad sample.
        """
        sample = self.data.read_labelled(row)
        (torch_seed,) = np.random.SeedSequence((self.seed, *state)).generate_state(1, np.uint64)
        with torch.random.fork_rng(devices=[]):
            # torch.manual_seed would reset the generators of GPUs too.
            torch.default_generator.manual_seed(int(torch_seed))
            try:
                image, label_map = self.transform(*to_tv_tensors(sample.photo, sample.label_map))
            except SetrError as error:
                raise SetrError(f"the image of {sample.name} cannot be used: {error}") from error
        labels = with_ignore_index(label_map.as_subclass(torch.Tensor).long(), self.ignore_index)
        return {"pixel_values": image.as_subclass(torch.Tensor), "labels": labels, "name": sample.name}


class TrainingExamples(Augmented, torch.utils.data.Dataset):
    """The examples of data that is not a stream; their augmentation depends on seed, epoch and index alone."""

    def __len__(self) -> int:
        return len(self.data)

    def __getitem__(self, index: int) -> dict[str, Any]:
        index = range(len(self))[index]
        return self.example(self.data.undecoded[index], self.epoch.item(), index)


class StreamingExamples(Augmented, torch.utils.data.IterableDataset):
    """The examples of a stream: each once in an epoch, in an order that a buffer of `SHUFFLE_BUFFER_SIZE` rows
    shuffles, augmented depending on seed, epoch and image file alone. `Trainer` needs `max_steps`, and begins a new
    epoch when the stream ends. A bad sample raises a [`SetrError`] when it is reached, unless `skip_bad_samples` is
    set and others are good.

    Dataloader workers share the stream's parts (files on the Hub), so workers beyond the number of parts are idle.
    Several processes need `accelerator_config={"dispatch_batches": False}`: each then reads the whole stream and keeps
    its share, the last batch filled up from the first. By default accelerate lets the first process read and hand out
    the batches, and loses samples if workers end with incomplete batches.
    """

    def __init__(
        self,
        data: SegmentationData,
        transform: v2.Transform,
        seed: int = 0,
        ignore_index: int = IGNORED_LABEL,
        skip_bad_samples: bool = False,
    ) -> None:
        super().__init__(data, transform, seed, ignore_index)
        self.rows = data.undecoded.shuffle(seed=seed, buffer_size=SHUFFLE_BUFFER_SIZE)
        self.skip_bad_samples = skip_bad_samples

    def set_epoch(self, epoch: int) -> None:
        """Changes order and augmentation, from the next iteration on."""
        super().set_epoch(epoch)
        self.rows.set_epoch(epoch)

    def __iter__(self) -> Iterator[dict[str, Any]]:
        epoch, num_read, num_skipped = self.epoch.item(), 0, 0
        for row in each_row(self.rows):
            num_read += 1
            image = row["image"] or {}
            try:
                example = self.example(row, epoch, zlib.crc32(image.get("bytes") or str(image.get("path")).encode()))
            except SetrError as error:
                if not self.skip_bad_samples:
                    raise SetrError(f"{error}. --skip-bad-samples leaves such samples out") from error
                num_skipped += 1
                logger.warning("Skipped %d of %d samples so far: %s", num_skipped, num_read, error)
                continue
            yield example
        if num_read and num_skipped == num_read:
            raise SetrError(f"none of {num_read} samples can be used; the warnings say why")


def with_ignore_index(label_map: torch.Tensor, ignore_index: int) -> torch.Tensor:
    """A label map for a model that ignores another value than 255."""
    if ignore_index == IGNORED_LABEL:
        return label_map
    return torch.where(label_map == IGNORED_LABEL, ignore_index, label_map.long())


def training_examples(
    data: SegmentationData,
    transform: v2.Transform,
    seed: int = 0,
    ignore_index: int = IGNORED_LABEL,
    skip_bad_samples: bool = False,
) -> TrainingExamples | StreamingExamples:
    """What `Trainer` trains on: `pixel_values`, float32 of shape `(bands, height, width)`, `labels`, int64 of shape
    `(height, width)`, and the sample's `name`, which [`collate`] leaves out. Returns [`StreamingExamples`] for a
    stream, else [`TrainingExamples`].

    Args:
        data (`SegmentationData`): What to train on. Raises [`SetrError`] if it has no annotations.
        transform (`v2.Transform`): Takes a `tv_tensors.Image` and a `tv_tensors.Mask`, see [`training_transform`].
        seed (`int`, *optional*, defaults to 0): Seed of the augmentation, and of the order of a stream.
        ignore_index (`int`, *optional*, defaults to 255): What `labels` hold for ignored pixels; the model's
            `semantic_loss_ignore_index`.
        skip_bad_samples (`bool`, *optional*, defaults to `False`): Whether a stream skips and counts samples that
            cannot be used; other data sets are checked as a whole, see [`checked_samples`].
    """
    if data.is_stream:
        return StreamingExamples(data, transform, seed, ignore_index, skip_bad_samples)
    return TrainingExamples(data, transform, seed, ignore_index)


def evaluation_batch(batch: dict[str, list], data: SegmentationData, ignore_index: int) -> dict[str, list]:
    samples = [data.read_labelled(dict(zip(batch, values))) for values in zip(*batch.values())]
    label_maps = [with_ignore_index(torch.from_numpy(sample.label_map), ignore_index).numpy() for sample in samples]
    return {"photo": [sample.photo for sample in samples], "label_map": label_maps}


def evaluation_examples(data: SegmentationData, ignore_index: int = IGNORED_LABEL) -> Dataset:
    """The data as `photo`, a PIL image or an array `(height, width, bands)`, and `label_map`, its class ids as an
    array, both at the original size. A stream is read to its end first and held in memory, its images still encoded,
    because evaluation divides the data among processes by index. Raises [`SetrError`] if the split has no annotations.
    """
    data.check_annotations()
    rows = data.in_memory().undecoded
    return rows.with_transform(partial(evaluation_batch, data=data, ignore_index=ignore_index))


def collate(examples: list[dict]) -> dict:
    """A batch of training examples, stacked, or of evaluation examples, whose photos and label maps stay lists."""
    if "photo" in examples[0]:
        return {key: [example[key] for example in examples] for key in ("photo", "label_map")}
    keys = [key for key in ("pixel_values", "feature_maps", "labels") if key in examples[0]]
    return {key: torch.stack([example[key] for example in examples]) for key in keys}
