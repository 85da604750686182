"""Examples and batches for training and evaluation from a segmentation data set."""

import logging
import zlib
from collections.abc import Iterator
from functools import partial

import numpy as np
import torch
from datasets import Dataset, IterableDataset
from torchvision.transforms import v2

from ..errors import SetrError
from ..model.image_processing_setr import IGNORED_LABEL
from .augmentation import to_tv_tensors
from .rows import SegmentationData


logger = logging.getLogger(__name__)

# Rows that a stream holds, still encoded, to draw the next one from.
SHUFFLE_BUFFER_SIZE = 1000


def training_example(
    data: SegmentationData, row: dict, transform: v2.Transform, random_state: tuple[int, ...], ignore_index: int
) -> dict[str, torch.Tensor]:
    """
    `pixel_values`, float32 of shape `(3, height, width)`, and `labels`, int64 of shape `(height, width)`, of a row of
    an [`undecoded`] data set. Augmentation draws from torch's global generator, here from the state that
    the numbers of `random_state` stand for; the generator is left as it was.

    Raises:
        `ValueError`: the row cannot be used; names the sample.
    """
    sample = data.read_labelled(row)
    with torch.random.fork_rng(devices=[]):
        # torch.manual_seed would reset the generators of GPUs too.
        torch.default_generator.manual_seed(int(np.random.SeedSequence(random_state).generate_state(1, np.uint64)[0]))
        image, label_map = transform(*to_tv_tensors(sample.photo, sample.label_map))
    labels = label_map.as_subclass(torch.Tensor).long()
    return {"pixel_values": image.as_subclass(torch.Tensor), "labels": with_ignore_index(labels, ignore_index)}


class TrainingExamples(torch.utils.data.Dataset):
    """
    The examples of a data set, augmented as they are read, see [`training_example`]. What is drawn for an example is a
    function of seed, epoch and index alone: however many workers and processes read them, and after a resumption, they
    are the same.

    Args:
        data (`SegmentationData`): Not a stream, for which there are [`StreamingExamples`].
        transform (`v2.Transform`): Takes a `tv_tensors.Image` and a `tv_tensors.Mask`, see [`training_transform`].
        seed (`int`, defaults to 0): Seed of the augmentation.
        ignore_index (`int`, defaults to 255): What `labels` hold where no class counts; the model's
            `semantic_loss_ignore_index`.
    """

    def __init__(
        self, data: SegmentationData, transform: v2.Transform, seed: int = 0, ignore_index: int = IGNORED_LABEL
    ):
        data.check_annotations()
        self.data = data
        self.transform = transform
        self.seed = seed
        self.ignore_index = ignore_index
        # Shared with workers that were started in an earlier epoch and go on.
        self.epoch = torch.zeros((), dtype=torch.int64).share_memory_()

    def set_epoch(self, epoch: int):
        """Other augmentation from here on; to be called before each epoch, before its first example is read."""
        self.epoch.fill_(epoch)

    def __len__(self) -> int:
        return len(self.data)

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        index = range(len(self))[index]
        random_state = (self.seed, self.epoch.item(), index)
        row = self.data.undecoded[index]
        return training_example(self.data, row, self.transform, random_state, self.ignore_index)


class StreamingExamples(torch.utils.data.IterableDataset):
    """
    The examples of a data set that is read while training: each once in an epoch, in an order that a buffer of
    `SHUFFLE_BUFFER_SIZE` rows shuffles, augmented by a function of seed, epoch and image file alone. `Trainer` needs
    `max_steps` for it, and begins a new epoch when the stream ends.

    Dataloader workers share the stream's parts (files on the Hub), so more workers than parts are of no use. Several
    processes need `accelerator_config={"dispatch_batches": False}`: each then reads the whole stream and keeps its
    share, the last batch filled up from the first. By default accelerate lets the first process read and hand out the
    batches, and loses samples where workers end with batches that are not full. A bad sample ends the stream when it
    comes up, or is skipped and counted.

    Args:
        data (`SegmentationData`): A stream. A row without a name of its own is named by its place in the stream of its
            worker.
        transform, seed, ignore_index: See [`TrainingExamples`].
        skip_bad_samples (`bool`, defaults to `False`): Whether to go on after samples that cannot be used.

    Raises:
        `ValueError`: while iterating: a sample cannot be used, or with `skip_bad_samples` none can; names it.
    """

    def __init__(
        self,
        data: SegmentationData,
        transform: v2.Transform,
        seed: int = 0,
        ignore_index: int = IGNORED_LABEL,
        skip_bad_samples: bool = False,
    ):
        data.check_annotations()
        self.data = data
        self.rows = data.undecoded.shuffle(seed=seed, buffer_size=SHUFFLE_BUFFER_SIZE)
        self.transform = transform
        self.seed = seed
        self.ignore_index = ignore_index
        self.skip_bad_samples = skip_bad_samples
        self.epoch = torch.zeros((), dtype=torch.int64).share_memory_()

    def set_epoch(self, epoch: int):
        """Another order and other augmentation, from the next iteration on."""
        self.epoch.fill_(epoch)
        self.rows.set_epoch(epoch)

    def __iter__(self) -> Iterator[dict[str, torch.Tensor]]:
        epoch, num_read, num_skipped = self.epoch.item(), 0, 0
        for row in self.rows:
            num_read += 1
            try:
                random_state = (self.seed, epoch, file_checksum(row["image"]))
                example = training_example(self.data, row, self.transform, random_state, self.ignore_index)
            except SetrError as error:
                if not self.skip_bad_samples:
                    raise SetrError(f"{error}. --skip-bad-samples goes on without such samples") from error
                num_skipped += 1
                logger.warning("Skipped %d of %d samples so far: %s", num_skipped, num_read, error)
                continue
            yield example
        if num_read and num_skipped == num_read:
            raise SetrError(f"none of {num_read} samples can be used; see the warnings for why")


def with_ignore_index(labels: torch.Tensor, ignore_index: int) -> torch.Tensor:
    """Label maps, in which 255 does not count, in the terms of a model that ignores another value."""
    if ignore_index == IGNORED_LABEL:
        return labels
    return torch.where(labels == IGNORED_LABEL, ignore_index, labels.long())


def file_checksum(image: dict | None) -> int:
    """A number for an undecoded image by its content, or by its path where only that is known."""
    image = image or {}
    return zlib.crc32(image.get("bytes") or str(image.get("path")).encode())


def training_examples(
    data: SegmentationData,
    transform: v2.Transform,
    seed: int = 0,
    ignore_index: int = IGNORED_LABEL,
    skip_bad_samples: bool = False,
) -> TrainingExamples | StreamingExamples:
    """
    What `Trainer` trains on. `skip_bad_samples` is for streams, see [`StreamingExamples`]; other data sets are checked
    as a whole, see [`checked_samples`].
    """
    if data.is_stream:
        return StreamingExamples(data, transform, seed, ignore_index, skip_bad_samples)
    return TrainingExamples(data, transform, seed, ignore_index)


def evaluation_batch(batch: dict[str, list], data: SegmentationData, ignore_index: int) -> dict[str, list]:
    samples = [data.read_labelled(dict(zip(batch, values))) for values in zip(*batch.values())]
    return {
        "photo": [sample.photo for sample in samples],
        "label_map": [
            with_ignore_index(torch.from_numpy(sample.label_map), ignore_index).numpy() for sample in samples
        ],
    }


def evaluation_examples(data: SegmentationData, ignore_index: int = IGNORED_LABEL) -> Dataset:
    """
    The data as `photo`, a PIL image, and `label_map`, its class ids, both at the original size. A stream is read to
    its end first and held in memory, its images still encoded, because evaluation divides it among processes by index.
    """
    data.check_annotations()
    rows = data.undecoded
    if isinstance(rows, IterableDataset):
        rows = Dataset.from_list(list(rows), features=rows.features)
    return rows.with_transform(partial(evaluation_batch, data=data, ignore_index=ignore_index))


def collate(examples: list[dict]) -> dict:
    """Stacks training examples, which have one size; leaves photographs and their label maps as lists."""
    if "photo" in examples[0]:
        return {key: [example[key] for example in examples] for key in ("photo", "label_map")}
    return {key: torch.stack([example[key] for example in examples]) for key in ("pixel_values", "labels")}
