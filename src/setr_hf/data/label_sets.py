"""What the pixel values of annotations mean: class names, reduction and ignored values, decided here and only here."""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from PIL import Image

from ..errors import SetrError
from ..model.image_processing_setr import IGNORED_LABEL
from .public_datasets import CITYSCAPES_LABEL_IDS, CITYSCAPES_NUM_LABEL_IDS, CLASS_NAMES, PALETTES


INVALID = -1
NAMES_FILE = "labels.json"
# The second is what older repositories on the Hub have.
NAMES_FILES = (NAMES_FILE, "id2label.json")
NUM_IDS_SHOWN = 10


@dataclass(frozen=True)
class LabelSet:
    """
    What the pixel values of a data set's annotations mean. Every reader of annotations goes through `encode`.

    Args:
        id2label (`dict[int, str]`): Name of each class; ids count from 0.
        lookup (`np.ndarray` of shape `(256,)`, int16): Class id of each pixel value, 255 for pixels that neither loss
            nor metric count, −1 for values that must not occur.
        palette (`list[list[int]]`, *optional*): RGB colour of each class.
    """

    id2label: dict[int, str]
    lookup: np.ndarray = field(repr=False)
    palette: list[list[int]] | None = field(default=None, repr=False)

    @property
    def names(self) -> list[str]:
        """The class names in the order of their ids."""
        return [self.id2label[i] for i in range(len(self.id2label))]

    @property
    def dataset(self) -> str | None:
        """The public data set whose classes these are, a key of `CLASS_NAMES`; `None` for classes of one's own."""
        return next((dataset for dataset, names in CLASS_NAMES.items() if names == self.names), None)

    @property
    def config_fields(self) -> dict:
        """The fields of `SetrConfig` that say what a model's classes are."""
        label2id = {name: index for index, name in self.id2label.items()}
        return {"id2label": self.id2label, "label2id": label2id, "palette": self.palette, "dataset": self.dataset}

    @property
    def is_reduced(self) -> bool:
        """Whether pixel value 0 is not counted and k is class k − 1: `do_reduce_labels` of the image processors."""
        return bool(self.lookup[0] == IGNORED_LABEL and self.lookup[1] == 0)

    @classmethod
    def of_values(
        cls, names: list[str], values: Mapping[int, int], ignored: Iterable[int] = (), palette=None
    ) -> "LabelSet":
        """Pixel value v is class `values[v]`; `ignored`, and 255 unless it stands for a class, are not counted."""
        lookup = np.full(256, INVALID, dtype=np.int16)
        lookup[IGNORED_LABEL] = IGNORED_LABEL
        lookup[list(values.keys())] = list(values.values())
        lookup[list(ignored)] = IGNORED_LABEL
        return cls(dict(enumerate(names)), lookup, palette)

    @classmethod
    def direct(cls, names: list[str], ignored: tuple[int, ...] = (), palette=None) -> "LabelSet":
        """Pixel values are class ids; 255 and `ignored` are not counted."""
        return cls.of_values(names, {i: i for i in range(len(names))}, ignored, palette)

    @classmethod
    def reduced(cls, names: list[str], palette=None) -> "LabelSet":
        """Pixel value 0 is «other» and not counted, k is class k − 1."""
        return cls.of_values(names, {i + 1: i for i in range(len(names))}, (0,), palette)

    def encode(self, annotation: Image.Image, name: str, photo_size: tuple[int, int]) -> np.ndarray:
        """
        The label map of an annotation, uint8 of shape `(height, width)`, 255 where no class counts. Of a PNG with a
        palette the indices count, not the colours; a bitmap (mode "1") holds the ids 0 and 1.

        Args:
            annotation (`PIL.Image.Image`): The data set's own values.
            name (`str`): What errors call the sample.
            photo_size (`tuple[int, int]`): Width and height of its photo in pixels.

        Raises:
            [`SetrError`]: the annotation is not an 8-bit map of ids, holds values without a meaning, or differs from
                the photo in size; names the sample.
        """
        values = np.asarray(annotation)
        if values.ndim != 2:
            raise SetrError(
                f"the annotation of {name} has {values.shape[-1]} channels: it encodes classes as colours, but one id "
                "per pixel is needed. (The full ADE20K is such a data set; the benchmark is ADEChallengeData2016.)"
            )
        if values.dtype.kind == "f":
            raise SetrError(f"the annotation of {name} holds floating-point values, not ids from 0 to 255")
        if values.dtype != bool and (values.min() < 0 or values.max() > 255):
            raise SetrError(
                f"the annotation of {name} holds values from {values.min()} to {values.max()}, not 0 to 255"
            )
        labels = self.lookup[values.astype(np.uint8)]
        if (labels == INVALID).any():
            unknown = np.unique(values[labels == INVALID]).tolist()
            more = f" and {len(unknown) - NUM_IDS_SHOWN} more" if len(unknown) > NUM_IDS_SHOWN else ""
            blurred = ". JPEG blurs ids: annotations have to be PNG" if annotation.format == "JPEG" else ""
            raise SetrError(
                f"the annotation of {name} holds the ids {unknown[:NUM_IDS_SHOWN]}{more}, which are none of the "
                f"{len(self.id2label)} classes{blurred}"
            )
        if annotation.size != photo_size:
            turned = ": a photo with an EXIF orientation is read upright, and its annotation has to be upright too"
            raise SetrError(
                f"the image of {name} is {photo_size[1]}×{photo_size[0]} pixels high and wide, its annotation "
                f"{annotation.height}×{annotation.width}{turned if annotation.size == photo_size[::-1] else ''}"
            )
        return labels.astype(np.uint8)


def published_label_set(name: str) -> LabelSet:
    """
    The label set of a public data set in the form that is published for training: ADE20K's benchmark (0 other, 1…150),
    Cityscapes' train ids, Pascal Context's 60 classes (0 background), or its 59, for which the background is ignored.

    Raises:
        `ValueError`: the name is none of `CLASS_NAMES`.
    """
    if name not in CLASS_NAMES:
        raise SetrError(f"labels {name!r} are none of {', '.join(CLASS_NAMES)}, and no names file either")
    make = LabelSet.reduced if name in ("ade20k", "pascal_context_59") else LabelSet.direct
    return make(CLASS_NAMES[name], palette=PALETTES[name])


def cityscapes_raw_label_set() -> LabelSet:
    """Cityscapes as its gtFine folder holds it: raw label ids, of which 19 are the training classes."""
    values = {label_id: train_id for train_id, label_id in enumerate(CITYSCAPES_LABEL_IDS)}
    ignored = set(range(CITYSCAPES_NUM_LABEL_IDS)) - set(values)
    return LabelSet.of_values(CLASS_NAMES["cityscapes"], values, ignored, PALETTES["cityscapes"])


def read_names_file(path: Path) -> LabelSet:
    """
    The label set of a `labels.json`, or of an `id2label.json` as older repositories on the Hub have it (ids and names
    only). The keys of a `labels.json`:

    - `id2label`: the class names, `{"0": "sky", …}`;
    - `ignore_index` (default 255): a pixel value that is not counted, besides 255;
    - `reduce_labels` (default false): pixel value 0 is not counted, k is class k − 1;
    - `values`: pixel values and the class ids they stand for where the two differ, such as `{"0": 0, "255": 1}` for
      masks in black and white;
    - `palette`: an RGB triple of each class.

    Raises:
        `ValueError`: the file is missing, or holds something else; names it.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        content = {"id2label": dict(enumerate(content))} if isinstance(content, list) else content
        id2label = content.get("id2label", content)
        names = {int(key): str(name) for key, name in id2label.items()}
        values = {int(value): int(label) for value, label in content.get("values", {}).items()}
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise SetrError(f"{path} does not hold an id2label object of ids and names: {error}") from error
    if not names or sorted(names) != list(range(len(names))):
        raise SetrError(f"the ids in {path} must count from 0 to {len(names) - 1}, got {sorted(names)}")
    names = [names[i] for i in range(len(names))]
    palette, ignored = content.get("palette"), content.get("ignore_index", IGNORED_LABEL)
    if not isinstance(ignored, int) or not 0 <= ignored <= 255:
        raise SetrError(f"ignore_index in {path} must be a pixel value from 0 to 255, got {ignored!r}")
    if palette is not None and np.shape(palette) != (len(names), 3):
        raise SetrError(f"the palette in {path} must hold an RGB triple for each of the {len(names)} classes")
    if content.get("reduce_labels"):
        return LabelSet.reduced(names, palette)
    if not values:
        return LabelSet.direct(names, (ignored,), palette)
    unknown = [value for value, label in values.items() if not (0 <= value <= 255 and 0 <= label < len(names))]
    if unknown:
        raise SetrError(f"values in {path} must map 0…255 to the ids 0…{len(names) - 1}; {unknown[0]} does not")
    return LabelSet.of_values(names, values, () if ignored in values else (ignored,), palette)


def own_label_set(folder: Path) -> LabelSet | None:
    """What a folder's names file says about its labels, if it has one."""
    files = [folder / name for name in NAMES_FILES if (folder / name).is_file()]
    return read_names_file(files[0]) if files else None


def chosen_label_set(labels: str | Path | None, own: LabelSet | None, source: str) -> LabelSet:
    """
    The label set that `labels` asks for, or the source's own where it asks for nothing.

    Args:
        labels: A key of `CLASS_NAMES`, or a names file, which wins over what the source says.
        own: What the source says itself.
        source: Its name, for messages.

    Raises:
        `ValueError`: nobody says what the labels mean, or the source has labels other than those that were asked for.
    """
    if labels is None:
        if own is None:
            raise SetrError(
                f"the class names of {source} are not known: it has no {NAMES_FILE}. Pass labels: a file "
                f'{{"id2label": {{"0": "sky", …}}, "ignore_index": 255}}, or one of {", ".join(CLASS_NAMES)}'
            )
        return own
    if Path(labels).suffix == ".json" or Path(labels).is_file():
        return read_names_file(Path(labels))
    asked = published_label_set(str(labels))
    # Asked for by name, classes that the source has already keep the values they have there: reducing a second time
    # would shift every class.
    if own is None or own.names == asked.names:
        return own or asked
    if labels == "pascal_context_59" and own.names == CLASS_NAMES["pascal_context"] and not own.is_reduced:
        return asked
    raise SetrError(
        f"{source} has labels of its own, {', '.join(own.names[:3])}, … ({len(own.names)} classes), which are not "
        f"those of {labels}: leave out labels, or pass a names file"
    )


def check_classes(config, label_set: LabelSet):
    """Raises a `ValueError` if a model's classes are not those of the data set, before the first image is read."""
    names = [label_set.id2label[i] for i in range(len(label_set.id2label))]
    if config.num_labels != len(names):
        raise SetrError(f"the model has {config.num_labels} classes, the data set {len(names)}")
    model_names = [config.id2label[i] for i in range(config.num_labels)]
    if model_names == [f"LABEL_{i}" for i in range(config.num_labels)]:
        return  # A model without names can only be held to their number.
    different = [i for i, name in enumerate(names) if name.strip().lower() != model_names[i].strip().lower()]
    if different:
        first = different[0]
        raise SetrError(
            f"{len(different)} of {len(names)} classes have other names in the model than in the data set; the first "
            f"is class {first}, {model_names[first]!r} in the model and {names[first]!r} in the data set. If they "
            "mean the same, give the model the data set's names (id2label in its config.json)"
        )
