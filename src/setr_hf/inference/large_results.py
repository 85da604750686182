"""What a job writes of a picture that is read by windows: its label map, an overlay of less size, and its table."""

import sys
from functools import partial
from pathlib import Path

from PIL import Image
from tqdm import tqdm

from ..errors import SetrError
from ..text import one_line
from .arguments import ConfidenceArguments
from .large_pictures import is_too_large, open_picture, opened, rasterio_module, segment_large_picture
from .output_folder import LARGE_RESULTS, recorded, result_files, share_table, write_jpeg, write_table
from .photos import shown_photo
from .pictures import overlay_with_legend, shares_of
from .segmenter import Segmenter


LONGEST_OVERLAY = 4096


def check_full_size(segmenter: Segmenter, shown: ConfidenceArguments) -> None:
    """Raises [`SetrError`] if what is asked for is not what pictures that are read by windows can have, or there is no
    library to read them.
    """
    rasterio_module()
    if segmenter.scales is not None or shown.need_confidence:
        raise SetrError(
            "photos that are read by windows have one scale and no confidence: leave out --protocol multi, "
            "--confidence and --ignore-below"
        )
    if not segmenter.processor.do_split_image:
        raise SetrError(
            "photos are read by windows of crop_size, which this model's image processor does not cut: set "
            "do_split_image=True, crop_size and stride in its preprocessor_config.json"
        )


def write_large_results(folder: Path, name: str, path: Path, segmenter: Segmenter, colors: list[list[int]]) -> None:
    """`NAME_labels.tif` with class ids, see [`segment_large_picture`], `NAME.csv` with the share of the area of each
    class, and `NAME_overlay.jpg`, whose longer side has at most 4,096 pixels.
    """
    picture_file, labels_file, table_file = result_files(folder, name, LARGE_RESULTS)
    model, processor = segmenter.model, segmenter.processor
    counts = segment_large_picture(model, processor, path, labels_file, segmenter.window_batch_size, True)
    ids = counts.nonzero()[0]
    shares = shares_of(ids, counts[ids])
    with open_picture(path, processor.num_bands) as picture, opened(labels_file, driver="GTiff") as labels:
        scale = min(1, LONGEST_OVERLAY / max(picture.height, picture.width))
        size = (max(1, round(scale * picture.height)), max(1, round(scale * picture.width)))
        pixels, label_map = picture.read(size=size), labels.read(1, out_shape=size)
    photo = Image.fromarray(pixels) if processor.num_bands is None else shown_photo(pixels)
    id2label = model.config.id2label
    write_jpeg(overlay_with_legend(photo, label_map, colors, id2label, shares=shares), picture_file)
    write_table(share_table(shares, id2label), table_file)


def record_large_results(
    folder: Path,
    name: str,
    path: Path,
    state: dict[str, int] | None,
    segmenter: Segmenter,
    shown: ConfidenceArguments,
    colors: list[list[int]],
) -> str | None:
    """[`write_large_results`], as [`recorded`]; or returns a line that names the picture and says why it has none."""
    try:
        check_full_size(segmenter, shown)
    except SetrError as error:
        return str(SetrError(f"{path} is too large to be read at once: {error}"))
    if is_too_large(path):
        tqdm.write(
            one_line(f"{path} is too large to be read at once: windows lie over it at its full size"), sys.stderr
        )
    try:
        write = partial(write_large_results, folder, name, path, segmenter, colors)
        return recorded(folder, name, path, state, write)
    except SetrError as error:
        return str(error)
