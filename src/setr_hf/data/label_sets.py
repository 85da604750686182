"""What the pixel values of annotations mean: class names, reduction and ignored values, decided here alone."""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from PIL import Image

from ..errors import SetrError
from ..files import whole_file
from ..model.configuration_setr import SetrConfig
from ..model.image_processing_setr import IGNORED_LABEL
from .public_datasets import CITYSCAPES_LABEL_IDS, CITYSCAPES_NUM_LABEL_IDS, CLASS_NAMES, PALETTES


INVALID = -1
NAMES_FILE = "labels.json"
# Older repositories on the Hub have the second.
NAMES_FILES = (NAMES_FILE, "id2label.json")
NUM_IDS_SHOWN = 10
Palette = list[list[int]]


def class_fields(names: list[str], palette: Palette | None, dataset: str | None) -> dict:
    label2id = {name: index for index, name in enumerate(names)}
    return {"id2label": dict(enumerate(names)), "label2id": label2id, "palette": palette, "dataset": dataset}


@dataclass(frozen=True)
class LabelSet:
    """What the pixel values of a data set's annotations mean.

    Args:
        id2label (`dict[int, str]`): The name of each class; ids count from 0.
        lookup (`np.ndarray` of shape `(256,)`, int16): The class id of each pixel value, 255 for pixels that loss and
            metrics ignore, −1 for values that must not occur.
        palette (`list[list[int]]`, *optional*): The RGB colour of each class, 0 to 255.

    Example:

    ```python
    >>> import numpy as np
    >>> from PIL import Image
    >>> from setr_hf.data.label_sets import LabelSet

    >>> annotation = Image.fromarray(np.array([[0, 2]], dtype=np.uint8))
    >>> LabelSet.reduced(["road", "car"]).encode(annotation, name="street_1", photo_size=(2, 1))
    array([[255,   1]], dtype=uint8)
    ```
    """

    id2label: dict[int, str]
    lookup: np.ndarray = field(repr=False)
    palette: Palette | None = field(default=None, repr=False)

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
        """The fields of `SetrConfig` that name a model's classes."""
        return class_fields(self.names, self.palette, self.dataset)

    @property
    def is_reduced(self) -> bool:
        """Whether pixel value 0 is ignored and k is class k − 1: `do_reduce_labels` of the image processors."""
        return bool(self.lookup[0] == IGNORED_LABEL and self.lookup[1] == 0)

    @classmethod
    def of_values(
        cls, names: list[str], values: Mapping[int, int], ignored: Iterable[int] = (), palette: Palette | None = None
    ) -> "LabelSet":
        """Pixel value v is class `values[v]`; `ignored` values, and 255 unless it is a class, are ignored."""
        lookup = np.full(256, INVALID, dtype=np.int16)
        lookup[IGNORED_LABEL] = IGNORED_LABEL
        lookup[list(values.keys())] = list(values.values())
        lookup[list(ignored)] = IGNORED_LABEL
        return cls(dict(enumerate(names)), lookup, palette)

    @classmethod
    def direct(cls, names: list[str], ignored: Iterable[int] = (), palette: Palette | None = None) -> "LabelSet":
        """Pixel values are class ids; 255 and `ignored` values are ignored."""
        return cls.of_values(names, {i: i for i in range(len(names))}, ignored, palette)

    @classmethod
    def reduced(cls, names: list[str], palette: Palette | None = None) -> "LabelSet":
        """Pixel value 0 is "other" and ignored, k is class k − 1."""
        return cls.of_values(names, {i + 1: i for i in range(len(names))}, (0,), palette)

    def encode(self, annotation: Image.Image, name: str, photo_size: tuple[int, int]) -> np.ndarray:
        """The label map of an annotation, uint8 of shape `(height, width)`, 255 for ignored pixels. The pixel values
        of a PNG with a palette are its indices, not its colours; those of a bitmap (mode "1") are 0 and 1. Raises a
        [`SetrError`] that calls the sample `name` if the annotation does not hold one 8-bit id per pixel, holds values
        without a meaning, or does not have `photo_size`, the width and height of its photo in pixels.
        """
        values = np.asarray(annotation)
        if values.ndim != 2:
            raise SetrError(
                f"the annotation of {name} has {values.shape[-1]} channels: it encodes classes as colours, but must "
                "hold one id per pixel. (The full ADE20K is such a data set; the benchmark is ADEChallengeData2016.)"
            )
        if values.dtype.kind not in "bui" or values.min() < 0 or values.max() > 255:
            found = f"{values.dtype} values from {values.min()} to {values.max()}"
            raise SetrError(f"the annotation of {name} holds {found}, not ids from 0 to 255")
        label_map = self.lookup[values.astype(np.uint8)]
        if (label_map == INVALID).any():
            unknown = np.unique(values[label_map == INVALID]).tolist()
            more = f" and {len(unknown) - NUM_IDS_SHOWN} more" if len(unknown) > NUM_IDS_SHOWN else ""
            blurred = ". JPEG blurs ids: save annotations as PNG" if annotation.format == "JPEG" else ""
            raise SetrError(
                f"the annotation of {name} holds the ids {unknown[:NUM_IDS_SHOWN]}{more}, which are none of the "
                f"{len(self.id2label)} classes{blurred}"
            )
        if annotation.size != photo_size:
            turned = ": a photo with an EXIF orientation is turned upright, so its annotation must be upright too"
            raise SetrError(
                f"the image of {name} is {photo_size[1]}×{photo_size[0]} pixels high and wide, its annotation "
                f"{annotation.height}×{annotation.width}{turned if annotation.size == photo_size[::-1] else ''}"
            )
        return label_map.astype(np.uint8)


def published_label_set(name: str) -> LabelSet:
    """The label set of a public data set in the form in which it is published for training: ADE20K's benchmark (0 is
    "other", then 1…150), Cityscapes' train ids, Pascal Context's 60 classes (0 is the background), or its 59, which
    ignore the background. Raises [`SetrError`] for other names.
    """
    if name not in CLASS_NAMES:
        raise SetrError(f"labels {name!r} are neither a names file nor one of {', '.join(CLASS_NAMES)}")
    make = LabelSet.reduced if name in ("ade20k", "pascal_context_59") else LabelSet.direct
    return make(CLASS_NAMES[name], palette=PALETTES[name])


def cityscapes_raw_label_set() -> LabelSet:
    """The label set of Cityscapes' gtFine folder: raw label ids, 19 of which are the training classes."""
    values = {label_id: train_id for train_id, label_id in enumerate(CITYSCAPES_LABEL_IDS)}
    ignored = set(range(CITYSCAPES_NUM_LABEL_IDS)) - set(values)
    return LabelSet.of_values(CLASS_NAMES["cityscapes"], values, ignored, PALETTES["cityscapes"])


def read_names_file(path: str | Path) -> LabelSet:
    """The label set in a `labels.json`, in an `id2label.json` (ids and names alone) of older repositories on the Hub,
    or in a list of the class names. Raises [`SetrError`] if the file is missing or malformed. The keys of a
    `labels.json`:

    - `id2label`: the class names, `{"0": "sky", …}`;
    - `ignore_index` (default 255): a pixel value that is ignored, besides 255;
    - `reduce_labels` (default false): pixel value 0 is ignored, k is class k − 1;
    - `values`: pixel values and the class ids they stand for if the two differ, such as `{"0": 0, "255": 1}` for
      black-and-white masks;
    - `palette`: an RGB triple for each class.
    """
    try:
        content = json.loads(Path(path).read_text(encoding="utf-8"))
        content = {"id2label": dict(enumerate(content))} if isinstance(content, list) else content
        id2label = content.get("id2label", content)
        id2label = {int(key): str(name) for key, name in id2label.items()}
        values = {int(value): int(label) for value, label in content.get("values", {}).items()}
        if not id2label:
            raise ValueError("it names no class")
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise SetrError(f"{path} does not hold an id2label object of ids and names: {error}") from error
    if sorted(id2label) != list(range(len(id2label))):
        raise SetrError(f"the ids in {path} must count from 0 to {len(id2label) - 1}, got {sorted(id2label)}")
    names = [id2label[i] for i in range(len(id2label))]
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


def write_names_file(path: str | Path, label_set: LabelSet) -> None:
    """Writes the `labels.json` of a data set whose annotations hold the class ids of `label_set`."""
    content: dict = {"id2label": label_set.id2label, "ignore_index": IGNORED_LABEL}
    if label_set.palette is not None:
        content["palette"] = label_set.palette
    with whole_file(path) as unfinished:
        unfinished.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def own_label_set(folder: Path) -> LabelSet | None:
    """The label set of a folder's names file, if it has one."""
    files = [folder / name for name in NAMES_FILES if (folder / name).is_file()]
    return read_names_file(files[0]) if files else None


def chosen_label_set(labels: str | Path | None, own: LabelSet | None, source: str | Path) -> LabelSet:
    """The label set that `labels`, a names file or a key of `CLASS_NAMES`, asks for; by default the source's own. A
    names file overrides the source. Raises [`SetrError`] if no label set is known, or the source has other classes.
    """
    if labels is None:
        if own is None:
            raise SetrError(
                f"the class names of {source} are not known: it has no {NAMES_FILE}. Pass labels: a file "
                f'{{"id2label": {{"0": "sky", …}}, "ignore_index": 255}}, or one of {", ".join(CLASS_NAMES)}'
            )
        return own
    if Path(labels).suffix == ".json" or Path(labels).is_file():
        return read_names_file(labels)
    asked = published_label_set(str(labels))
    # If the source has the classes that were asked for, its pixel values stay as they are: reducing them a second time
    # would shift every class.
    if own is None or own.names == asked.names:
        return own or asked
    if labels == "pascal_context_59" and own.names == CLASS_NAMES["pascal_context"] and not own.is_reduced:
        return asked
    raise SetrError(
        f"{source} has classes of its own, {', '.join(own.names[:3])}, … ({len(own.names)} in all), which are not "
        f"those of {labels}: leave out labels, or pass a names file"
    )


def check_classes(config: SetrConfig, label_set: LabelSet) -> None:
    """Raises a [`SetrError`] if a model's classes, or their number if it has no names, are not the data set's."""
    names = label_set.names
    if config.num_labels != len(names):
        raise SetrError(f"the model has {config.num_labels} classes, the data set {len(names)}")
    model_names = [config.id2label[i] for i in range(config.num_labels)]
    if model_names == [f"LABEL_{i}" for i in range(config.num_labels)]:
        return
    different = [i for i, name in enumerate(names) if name.strip().lower() != model_names[i].strip().lower()]
    if different:
        first = different[0]
        raise SetrError(
            f"{len(different)} of {len(names)} classes have other names in the model than in the data set; the first "
            f"is class {first}, {model_names[first]!r} in the model and {names[first]!r} in the data set. If they "
            "mean the same, give the model the data set's names (id2label in its config.json)"
        )
