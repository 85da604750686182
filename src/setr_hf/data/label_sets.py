"""What the pixel values of annotations mean: class names, reduction and ignored values, decided here alone."""

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from datasets import ClassLabel, Features, LargeList, List
from PIL import Image

from ..errors import SetrError
from ..files import parse_json, read_text, whole_file
from ..model.configuration_setr import SetrConfig, numbered_names
from ..model.image_processing_setr import IGNORED_LABEL
from ..text import one_line
from .public_datasets import CITYSCAPES_LABEL_IDS, CITYSCAPES_NUM_LABEL_IDS, CLASS_NAMES, PALETTES


INVALID = -1
NAMES_FILE = "labels.json"
# Older repositories on the Hub have the second.
NAMES_FILES = (NAMES_FILE, "id2label.json")
# A column that names classes, if it is not a list of them.
CLASSES_COLUMN = "classes"
NUM_IDS_SHOWN = 10
# A label map has 8 bits, and 255 where no class counts.
MOST_CLASSES = 255
NUMBER = re.compile(r"0|[1-9][0-9]{0,8}")
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
        if annotation.format == "JPEG":
            raise SetrError(f"the annotation of {name} is a JPEG, which blurs ids: save annotations as PNG")
        values = np.asarray(annotation)
        if values.ndim != 2:
            raise SetrError(
                f"the annotation of {name} has {values.shape[-1]} channels: it encodes classes as colours, but must "
                "hold one id per pixel. (The full ADE20K is such a data set; the benchmark is ADEChallengeData2016.)"
            )
        if values.dtype.kind not in "bui" or values.min() < 0 or values.max() > 255:
            found = f"{values.dtype} values from {values.min()} to {values.max()}"
            raise SetrError(f"the annotation of {name} holds {found}, not ids from 0 to 255")
        values = np.ascontiguousarray(values, dtype=np.uint8)
        counts = cv2.calcHist([values], [0], None, [256], [0, 256]).ravel()
        unknown = np.flatnonzero((counts > 0) & (self.lookup == INVALID)).tolist()
        if unknown:
            more = f" and {len(unknown) - NUM_IDS_SHOWN} more" if len(unknown) > NUM_IDS_SHOWN else ""
            raise SetrError(
                f"the annotation of {name} holds the ids {unknown[:NUM_IDS_SHOWN]}{more}, which are none of the "
                f"{len(self.id2label)} classes"
            )
        if annotation.size != photo_size:
            turned = ": a photo with an EXIF orientation is turned upright, so its annotation must be upright too"
            raise SetrError(
                f"the image of {name} is {photo_size[1]}×{photo_size[0]} pixels high and wide, its annotation "
                f"{annotation.height}×{annotation.width}{turned if annotation.size == photo_size[::-1] else ''}"
            )
        return cv2.LUT(values, self.lookup.astype(np.uint8))


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
    or in a list of the class names. Raises [`SetrError`] if the file is missing or malformed, or contradicts itself;
    it names the file and the entry. The keys of a `labels.json`:

    - `id2label`: the class names, `{"0": "sky", …}`, up to 255, each another one;
    - `ignore_index` (default 255): a pixel value that is ignored, besides 255;
    - `reduce_labels` (default false): pixel value 0 is ignored, k is class k − 1;
    - `values`: pixel values and the class ids they stand for if the two differ, such as `{"0": 0, "255": 1}` for
      black-and-white masks;
    - `palette`: an RGB triple for each class.
    """
    path = Path(path)
    text = read_text(path)
    try:
        return parse_names(parse_json(text))
    except ValueError as error:
        raise SetrError(f"{path} is not a file of class names: {error}") from None


def parse_names(content: Any) -> LabelSet:
    """The label set in the content of a names file. Raises `ValueError` that names the entry which is wrong."""
    if isinstance(content, list):
        content = {"id2label": {str(index): name for index, name in enumerate(content)}}
    if not isinstance(content, dict):
        raise ValueError(f"it holds {shortened(content)}, neither an id2label object of ids and names nor a list")
    names = class_names(content.get("id2label", content))
    count = len(names)
    palette, ignored = content.get("palette"), content.get("ignore_index", IGNORED_LABEL)
    if not is_id(ignored, 256):
        raise ValueError(f"ignore_index must be a pixel value from 0 to 255, got {shortened(ignored)}")
    check_palette(palette, count)
    is_reduced = content.get("reduce_labels", False)
    if not isinstance(is_reduced, bool):
        raise ValueError(f"reduce_labels must be true or false, got {shortened(is_reduced)}")
    values = pixel_values(content.get("values", {}), count)
    if is_reduced and values:
        raise ValueError("reduce_labels and values cannot both say what pixel values mean")
    if is_reduced:
        values = {index + 1: index for index in range(count)}
    values = values or {index: index for index in range(count)}
    if "ignore_index" in content and ignored in values and ignored != IGNORED_LABEL:
        name = names[values[ignored]]
        raise ValueError(f"ignore_index is {ignored}, which is the pixel value of the class {shortened(name)}")
    return LabelSet.of_values(names, values, {ignored, *([0] if is_reduced else [])} - set(values), palette)


def shortened(value: Any) -> str:
    """A value of a file as an error quotes it."""
    return one_line(repr(value), 80)


def is_id(value: Any, count: int) -> bool:
    return type(value) is int and 0 <= value < count


def class_names(id2label: Any) -> list[str]:
    """The names of `{"0": name, …}` in the order of their ids. Raises `ValueError` if they are not names and ids."""
    if not isinstance(id2label, dict):
        raise ValueError(f"id2label must be an object of ids and names, got {shortened(id2label)}")
    if not id2label:
        raise ValueError("it names no class")
    for key, name in id2label.items():
        if not NUMBER.fullmatch(key):
            raise ValueError(f"the key {shortened(key)} of id2label is not an id: ids count from 0")
        if not isinstance(name, str) or not name.strip() or any("\ud800" <= char <= "\udfff" for char in name):
            raise ValueError(f"class {key} has the name {shortened(name)}, which is not a text")
    if len(id2label) > MOST_CLASSES:
        raise ValueError(f"it names {len(id2label)} classes; label maps of 8 bits hold up to {MOST_CLASSES}")
    ids = sorted(map(int, id2label))
    if ids != list(range(len(ids))):
        raise ValueError(f"the ids must count from 0 to {len(ids) - 1}, got {shortened(ids)}")
    names = [id2label[str(index)] for index in ids]
    repeated = next((name for name in names if names.count(name) > 1), None)
    if repeated is not None:
        twice = [index for index, name in enumerate(names) if name == repeated][:2]
        raise ValueError(f"the classes {twice[0]} and {twice[1]} have the same name, {shortened(repeated)}")
    return names


def check_palette(palette: Any, count: int) -> None:
    """Raises `ValueError` if `palette` is neither `None` nor an RGB triple for each of `count` classes."""
    if palette is None:
        return
    if not isinstance(palette, list) or len(palette) != count:
        raise ValueError(f"the palette must hold an RGB triple for each of the {count} classes")
    for index, color in enumerate(palette):
        if not isinstance(color, list) or len(color) != 3 or not all(is_id(value, 256) for value in color):
            raise ValueError(
                f"the colour of class {index} must be three numbers from 0 to 255, got {shortened(color)}"
            )


def pixel_values(values: Any, count: int) -> dict[int, int]:
    """The `values` of a names file. Raises `ValueError` if they do not map pixel values to class ids."""
    if not isinstance(values, dict):
        raise ValueError(f"values must map pixel values to class ids, got {shortened(values)}")
    for value, label in values.items():
        if not NUMBER.fullmatch(value) or int(value) > 255 or not is_id(label, count):
            entry = f"{shortened(value)}: {shortened(label)}"
            raise ValueError(f"values must map 0…255 to the ids 0…{count - 1}; {entry} does not")
    return {int(value): label for value, label in values.items()}


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


def label_set_of_features(features: Features) -> LabelSet | None:
    """The label set of rows one column of which lists the classes in a photo, as `List(ClassLabel(names=[…]))`, or is
    called `classes`; pixel values are their ids. `None` if there is no such column, or several disagree: a single
    class for a photo, such as its scene, says nothing of its pixels.
    """
    found = []
    for name, feature in features.items():
        while isinstance(feature, (List, LargeList)):
            feature, name = feature.feature, CLASSES_COLUMN
        if isinstance(feature, ClassLabel) and name == CLASSES_COLUMN and feature.names not in found:
            found.append(feature.names)
    if len(found) != 1:
        return None
    try:
        return parse_names(list(found[0]))
    except ValueError as error:
        raise SetrError(f"the names of a column of class labels cannot be used: {error}") from None


def is_names_file(labels: str | Path | None) -> bool:
    """Whether the labels that are asked for are a names file, which overrides what the source says of itself."""
    return labels is not None and (Path(labels).suffix == ".json" or Path(labels).is_file())


def chosen_label_set(labels: str | Path | None, own: LabelSet | None, source: str | Path) -> LabelSet:
    """The label set that `labels`, a names file or a key of `CLASS_NAMES`, asks for; by default the source's own. A
    names file overrides the source. Raises [`SetrError`] if no label set is known, or the source has other classes.
    """
    if labels is None:
        if own is None:
            raise SetrError(
                f"the class names of {source} are not known: it has no {NAMES_FILE}, and no column of "
                "class labels. Pass labels: a file "
                f'{{"id2label": {{"0": "sky", …}}, "ignore_index": 255}}, or one of {", ".join(CLASS_NAMES)}'
            )
        return own
    if is_names_file(labels):
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
    model_names = [config.id2label[i] for i in range(len(config.id2label))]
    if len(model_names) != len(names):
        raise SetrError(f"the model has {len(model_names)} classes, the data set {len(names)}")
    if config.id2label == numbered_names(1 if config.is_binary else len(names)):
        return
    different = [i for i, name in enumerate(names) if name.strip().lower() != model_names[i].strip().lower()]
    if different:
        first = different[0]
        raise SetrError(
            f"{len(different)} of {len(names)} classes have other names in the model than in the data set; the first "
            f"is class {first}, {model_names[first]!r} in the model and {names[first]!r} in the data set. If they "
            "mean the same, give the model the data set's names (id2label in its config.json)"
        )
