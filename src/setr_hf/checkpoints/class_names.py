"""The classes of a public checkpoint: by what the file says, what the user says, or how many there are."""

from pathlib import Path
from typing import Any

from ..data.label_sets import class_fields, read_names_file
from ..data.public_datasets import CLASS_NAMES, PALETTES
from ..errors import SetrError


# Public lists of the same classes differ in a few names, such as "television receiver".
SHARE_OF_EQUAL_NAMES = 0.9


def names_in_metadata(meta: dict[str, Any]) -> tuple[list[str], list[list[int]] | None] | None:
    """Class names and colours in a file of mmsegmentation, 1.x or 0.x; `None` if there are none that can be used."""
    dataset_meta = meta.get("dataset_meta")
    places = [dataset_meta] if isinstance(dataset_meta, dict) else []
    for place, names_key, palette_key in [*((p, "classes", "palette") for p in places), (meta, "CLASSES", "PALETTE")]:
        names, palette = place.get(names_key), place.get(palette_key)
        if isinstance(names, (list, tuple)) and names and all(isinstance(name, str) for name in names):
            names = [name.strip() for name in names]
            if all(names) and len(set(names)) == len(names):
                return names, palette_in_metadata(palette, len(names))
    return None


def palette_in_metadata(palette: Any, num_labels: int) -> list[list[int]] | None:
    """The colours of so many classes as lists of whole numbers; `None` if these are not such colours."""
    if not isinstance(palette, (list, tuple)) or len(palette) != num_labels:
        return None
    if not all(isinstance(color, (list, tuple)) and len(color) == 3 for color in palette):
        return None
    if not all(isinstance(value, (int, float)) and 0 <= value <= 255 for color in palette for value in color):
        return None
    return [list(map(int, color)) for color in palette]


def guessed_dataset(num_labels: int, names: list[str] | None) -> str | None:
    """The public data set with that number of classes and, if `names` are known, with nearly all of these names."""
    for dataset, known in CLASS_NAMES.items():
        if len(known) == num_labels:
            equal = num_labels if names is None else sum(a == b for a, b in zip(names, known))
            if equal >= SHARE_OF_EQUAL_NAMES * num_labels:
                return dataset
    return None


def find_classes(meta: dict[str, Any], dataset: str | None, num_labels: int) -> tuple[dict[str, Any], str]:
    """The fields of `SetrConfig` that describe the classes of a checkpoint, and where they come from, to end a
    sentence that begins with "Class names". Names in the file's metadata win; then come those of `dataset`, a key of
    `CLASS_NAMES` or a names file, and then those of the public data set with as many classes. Raises [`SetrError`] if
    `dataset` is neither, or has another number of classes.
    """
    told = names_in_metadata(meta)
    if told and len(told[0]) != num_labels:
        told = None
    if dataset is None:
        known = guessed_dataset(num_labels, told and told[0])
        names, palette = [f"LABEL_{index}" for index in range(num_labels)], None
        origin = f"of {known}, assumed from {num_labels} classes" if known else "unknown, numbered"
    elif dataset in CLASS_NAMES:
        known, origin = dataset, f"of {dataset}"
    elif Path(dataset).is_file():
        label_set = read_names_file(Path(dataset))
        known, names, palette, origin = label_set.dataset, label_set.names, label_set.palette, f"from {dataset}"
    else:
        raise SetrError(f"{dataset} is neither a file of class names nor one of {', '.join(CLASS_NAMES)}")
    if known:
        names, palette = CLASS_NAMES[known], PALETTES[known]
    if len(names) != num_labels:
        raise SetrError(f"{dataset} has {len(names)} classes, the checkpoint {num_labels}")
    if told:
        names, palette, origin = told[0], told[1] or palette, "from the file's metadata"
    return class_fields(names, palette, known), origin
