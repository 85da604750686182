"""What a frozen encoder makes of the training photos: computed once, kept on the disk, and read in every epoch."""

import copy
import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState
from accelerate.utils import gather_object
from rich.filesize import decimal
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn
from torch.utils.data import ConcatDataset, DataLoader, Dataset, Subset
from transformers import TrainerCallback, TrainerState

from ..data.augmentation import views, why_random
from ..data.examples import TrainingExamples
from ..data.passes import my_samples
from ..data.rows import SegmentationData
from ..errors import SetrError
from ..files import check_space, whole_file
from ..progress import progress_bar
from ..tables import print_options
from .digests import add_tensors, tensor_bytes
from .encoder_layers import find_encoder


# In the output folder; `Trainer.push_to_hub` does not upload what begins with "_".
FEATURE_FOLDER = "_features"
NO_FOLDER = "none"
# Fields of a configuration that the encoder does not read, or that are written when the model is saved.
NOT_OF_THE_ENCODER = {"id2label", "label2id", "palette", "dataset", "is_binary", "auxiliary_loss_weight"}
NOT_OF_THE_ENCODER |= {"_name_or_path", "architectures", "dtype", "auto_map", "transformers_version"}
LOSS_FIELDS = "semantic_loss"


def features_digest(model: Any, precision: str) -> str:
    """A name for all that decides on an encoder's features but the photos: its weights, its configuration, and the
    `precision` it is run in, such as "bf16".
    """
    config = {
        name: value
        for name, value in model.config.to_dict().items()
        if name not in NOT_OF_THE_ENCODER and not name.startswith(LOSS_FIELDS)
    }
    digest = hashlib.sha256(json.dumps([config, precision, model.feature_indices], sort_keys=True).encode())
    add_tensors(digest, find_encoder(model)[1].state_dict().items())
    return digest.hexdigest()[:32]


def feature_file(folder: Path, pixel_values: torch.Tensor) -> Path:
    """Where the features of an augmented and normalized photo are kept: its name says which photo that is."""
    return folder / f"{hashlib.sha256(tensor_bytes(pixel_values)).hexdigest()[:32]}.safetensors"


class FeatureExamples(Dataset):
    """Training examples that hold `feature_maps`, of shape `(num_maps, hidden_size, height, width)`, in the place of
    `pixel_values`, once there is a `folder` that has those of all; until then they are as they were.
    """

    def __init__(self, examples: TrainingExamples) -> None:
        self.examples = examples
        self.folder: Path | None = None

    def __len__(self) -> int:
        return len(self.examples)

    def set_epoch(self, epoch: int) -> None:
        self.examples.set_epoch(epoch)

    def __getitem__(self, index: int) -> dict[str, Any]:
        example = self.examples[index]
        if self.folder is None:
            return example
        path = feature_file(self.folder, example.pop("pixel_values"))
        try:
            return example | load_file(path)
        except (OSError, SafetensorError) as error:
            raise SetrError(
                f"the features of {example['name']} in {path} cannot be read ({error}): remove {path.name}, and a "
                "run that is resumed computes them again"
            ) from error


def size_of_sample(index: int, data: SegmentationData) -> tuple[int, int]:
    height, width = data.read_labelled(data.undecoded[index]).label_map.shape
    return height, width


def reason_to_compute(examples: TrainingExamples) -> str | None:
    """Why features cannot be kept; `None` if they can. The processes of a run share the work."""
    if reason := why_random(examples.transform, set()):
        return reason
    mine = {size for _, size in my_samples(examples.data, size_of_sample, "Reading sizes")}
    return why_random(examples.transform, {size for sizes in gather_object([mine]) for size in sizes})


def all_views(examples: TrainingExamples) -> Dataset:
    """Each example once in each form that its augmentation may give it."""
    copies = []
    for transform in views(examples.transform):
        variant = copy.copy(examples)
        variant.transform = transform
        copies.append(variant)
    return ConcatDataset(copies)


def images_of(examples: list[dict[str, Any]]) -> list[torch.Tensor]:
    return [example["pixel_values"] for example in examples]


class FrozenEncoder(TrainerCallback):
    """Keeps what a frozen encoder makes of the training photos. At the start of training it runs on each photo, or on
    it and its mirror image, once; from then on it does not run in training. It runs as it would in each step, so that
    training comes to the same weights but for rounding, as the encoder's batches are others.

    That takes an augmentation without chance but for mirroring: one scale (`--min-scale 1 --max-scale 1`), crops as
    large as the largest photo or larger, and no distortion of colours. Otherwise the encoder runs in each step, and a
    line says why.

    Files have the names of the encoder, its weights and precision included, and of the pixels that it was given, so
    that features of anything else are never used. They are whole or not there, and a run that was killed goes on with
    those that it finds. They keep the type that the encoder returns. One process writes those of its share.

    Args:
        examples ([`FeatureExamples`]): What is trained on.
        folder (`Path`): Where features are kept, in a folder for each encoder.
        compute (`Callable`): From images `(batch_size, num_channels, height, width)` to the features of each.
        precision (`str`): See [`features_digest`].

    Raises:
        [`SetrError`], when training starts: the disk has no room for all features.
    """

    def __init__(
        self,
        examples: FeatureExamples,
        folder: Path,
        compute: Callable[[torch.Tensor], torch.Tensor],
        precision: str,
    ) -> None:
        self.examples = examples
        self.folder = folder
        self.compute = compute
        self.precision = precision

    def on_train_begin(
        self, args: Any, state: TrainerState, control: Any, model: nn.Module | None = None, **kwargs: Any
    ) -> None:
        reason = reason_to_compute(self.examples.examples)
        if reason is None:
            folder = self.folder / features_digest(model, self.precision)
            told = self.fill(folder, args.train_batch_size, args.dataloader_num_workers)
            PartialState().wait_for_everyone()
            self.examples.folder = folder
        else:
            told = f"computed in each step, as {reason}"
            self.examples.folder = None
        if state.is_world_process_zero:
            print_options([("features", told)])

    def fill(self, folder: Path, batch_size: int, num_workers: int) -> str:
        """Computes and writes what is missing of this process's share. Returns what was done in words."""
        every, process = all_views(self.examples.examples), PartialState()
        count = len(every)  # type: ignore[arg-type]
        mine = Subset(every, range(process.process_index, count, process.num_processes))
        loader = DataLoader(mine, batch_size, num_workers=num_workers, collate_fn=images_of)
        num_bytes = written = 0
        with progress_bar(count, "view", desc="Features", delay=3, disable=not process.is_main_process) as bar:
            for images in loader:
                missing = {path: image for image in images if not (path := feature_file(folder, image)).exists()}
                if missing:
                    features = self.compute(torch.stack([*missing.values()])).cpu()
                    if not num_bytes and process.is_main_process:
                        num_bytes = features[0].nbytes
                        self.check_room(folder, num_bytes, count)
                    for path, maps in zip(missing, features):
                        with whole_file(path) as unfinished:
                            save_file({"feature_maps": maps.contiguous()}, unfinished)
                    written += len(missing)
                bar.update(len(images) * process.num_processes)
        found = "" if written else ", all there already"
        return f"{count:,} views of {len(self.examples):,} photos, kept in {folder}{found}"

    def check_room(self, folder: Path, num_bytes: int, count: int) -> None:
        """Says how much is written, before it is, and raises a [`SetrError`] if there is no room for it."""
        there = len(list(folder.glob("[!.]*.safetensors"))) if folder.is_dir() else 0
        needed = max(0, count - there) * num_bytes
        check_space(folder, needed)
        print_options([("features", f"{decimal(needed)} are computed and written, {decimal(num_bytes)} a view")])
