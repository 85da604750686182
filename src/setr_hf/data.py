"""One way in for segmentation data: `datasets` data sets of images and annotations, and what their labels mean."""

import json
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from datasets import Dataset, Features, Image, Value
from PIL import Image as PILImage

from .image_processing_base_setr import IGNORED_LABEL


INVALID = -1
IMAGE_SUFFIXES = {".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp"}
# Published names of the same split.
SPLIT_FOLDERS = {
    "train": ("train", "training"),
    "validation": ("val", "validation"),
    "test": ("test", "testing"),
}
NAMES_FILE = "labels.json"


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
    def is_reduced(self) -> bool:
        """Whether pixel value 0 is not counted and k is class k − 1: `do_reduce_labels` of the image processors."""
        return bool(self.lookup[0] == IGNORED_LABEL and self.lookup[1] == 0)

    @classmethod
    def direct(cls, names: list[str], ignored: tuple[int, ...] = (), palette=None) -> "LabelSet":
        """Pixel values are class ids; 255 and `ignored` are not counted."""
        lookup = np.full(256, INVALID, dtype=np.int16)
        lookup[: len(names)] = np.arange(len(names))
        lookup[[IGNORED_LABEL, *ignored]] = IGNORED_LABEL
        return cls(dict(enumerate(names)), lookup, palette)

    @classmethod
    def reduced(cls, names: list[str], palette=None) -> "LabelSet":
        """Pixel value 0 is «other» and not counted, k is class k − 1."""
        lookup = np.full(256, INVALID, dtype=np.int16)
        lookup[1 : len(names) + 1] = np.arange(len(names))
        lookup[[0, IGNORED_LABEL]] = IGNORED_LABEL
        return cls(dict(enumerate(names)), lookup, palette)

    def encode_row(self, row: dict) -> np.ndarray:
        """
        Class ids of a data set's row with `image`, `annotation` and `name`, see [`encode`].

        Raises:
            `ValueError`: image and annotation differ in size, or see [`encode`]; names the sample.
        """
        image, labels = row["image"], self.encode(row["annotation"], row["name"])
        if (image.height, image.width) != labels.shape:
            raise ValueError(
                f"the image of {row['name']} is {image.height}×{image.width} pixels high and wide, its annotation "
                f"{labels.shape[0]}×{labels.shape[1]}"
            )
        return labels

    def encode(self, annotation: PILImage.Image, name: str) -> np.ndarray:
        """
        Class ids of an annotation, uint8 of shape `(height, width)`, 255 where nothing is counted.

        Raises:
            `ValueError`: the annotation is no 8-bit map of ids, or holds values without a meaning; names the sample.
        """
        values = np.asarray(annotation)
        if values.ndim != 2:
            raise ValueError(
                f"the annotation of {name} has {values.shape[-1]} channels: it encodes classes as colours, but one id "
                "per pixel is needed. (The full ADE20K is such a data set; the benchmark is ADEChallengeData2016.)"
            )
        if values.dtype != bool and (values.min() < 0 or values.max() > 255):
            raise ValueError(
                f"the annotation of {name} holds values from {values.min()} to {values.max()}, not 0 to 255"
            )
        labels = self.lookup[values.astype(np.uint8)]
        if (labels == INVALID).any():
            unknown = np.unique(values[labels == INVALID]).tolist()
            raise ValueError(
                f"the annotation of {name} holds the ids {unknown}, which are none of the {len(self.id2label)} classes"
            )
        return labels.astype(np.uint8)


def split_folder(folder: Path, split: str) -> Path:
    """The subfolder of `folder` for a split, under any of its published names."""
    split = next((name for name, folders in SPLIT_FOLDERS.items() if split in folders), split)
    candidates = SPLIT_FOLDERS.get(split, (split,))
    for name in candidates:
        if (folder / name).is_dir():
            return folder / name
    raise ValueError(f"{folder} has no folder {' or '.join(candidates)} for the split {split!r}")


def read_label_set(root: Path) -> LabelSet:
    """The label set of a folder: `objectInfo150.txt` marks ADE20K, `labels.json` holds names and the ignored id."""
    if (root / "objectInfo150.txt").is_file():
        rows = (root / "objectInfo150.txt").read_text().splitlines()[1:]
        return LabelSet.reduced([row.split("\t")[-1].split(",")[0].strip() for row in rows if row.strip()])
    names_file = root / NAMES_FILE
    if not names_file.is_file():
        raise ValueError(
            f'{root} needs a {NAMES_FILE} with the class names: {{"id2label": {{"0": "sky", …}}, "ignore_index": 255}}'
        )
    try:
        content = json.loads(names_file.read_text())
        names = {int(key): str(name) for key, name in content["id2label"].items()}
    except (json.JSONDecodeError, KeyError, TypeError, AttributeError, ValueError) as error:
        raise ValueError(f"{names_file} does not hold an id2label object of ids and names: {error}") from error
    if sorted(names) != list(range(len(names))):
        raise ValueError(f"the ids in {names_file} must count from 0 to {len(names) - 1}, got {sorted(names)}")
    ignored = content.get("ignore_index", IGNORED_LABEL)
    if content.get("reduce_labels"):
        return LabelSet.reduced([names[i] for i in range(len(names))], content.get("palette"))
    return LabelSet.direct([names[i] for i in range(len(names))], (ignored,), content.get("palette"))


def load_segmentation_folder(root: str | Path, split: str) -> tuple[Dataset, LabelSet]:
    """
    A folder `images/{train,val}` and `annotations/{train,val}` with a names file, or ADEChallengeData2016.

    Returns:
        A `datasets.Dataset` with the columns `image`, `annotation` (both decoded to PIL images) and `name` (the file's
        name without suffix), in order of the names; and the meaning of the annotations, a [`LabelSet`]. The test
        split, which benchmarks publish without annotations, has no such column then.

    Raises:
        `ValueError`: a folder or names file is missing, or an image has no annotation; names the file.
    """
    root = Path(root)
    if not root.is_dir():
        raise ValueError(f"{root} is no folder")
    label_set = read_label_set(root)
    image_folder = split_folder(root / "images", split)
    images = sorted(path for path in image_folder.iterdir() if path.suffix.lower() in IMAGE_SUFFIXES)
    if not images:
        raise ValueError(f"{image_folder} holds no images")
    columns = {"image": [str(path) for path in images], "name": [path.stem for path in images]}
    features = {"image": Image(), "name": Value("string")}
    if image_folder.name not in SPLIT_FOLDERS["test"] or (root / "annotations" / image_folder.name).is_dir():
        annotation_folder = split_folder(root / "annotations", split)
        annotations = [annotation_folder / f"{path.stem}.png" for path in images]
        missing = [path.name for path in annotations if not path.is_file()]
        if missing:
            raise ValueError(
                f"{len(missing)} images have no annotation in {annotation_folder}, the first is {missing[0]}"
            )
        columns["annotation"], features["annotation"] = [str(path) for path in annotations], Image()
    return Dataset.from_dict(columns, features=Features(features)), label_set
