"""What is wrong with the files and the photos of a data set, whatever the annotations hold."""

from ..data.folders import is_test_split
from .findings import Finding, about
from .samples import DataFacts, PhotoFacts, SampleFacts


SMALLEST_SIDE = 32
MOST_PIXELS = 64_000_000
# Of the longer side to the shorter.
LARGEST_ASPECT = 6
LEAVE_OUT = "remove them, or pass --skip-bad-samples to leave them out"


def photos_of(data: DataFacts) -> list[tuple[SampleFacts, PhotoFacts]]:
    return [(sample, sample.photo) for sample in data.samples if sample.photo is not None]


def corrupt_files(data: DataFacts) -> list[Finding]:
    photos = [sample for sample in data.samples if sample.photo_error]
    masks = [sample for sample in data.samples if sample.mask_error]
    findings = []
    if photos:
        findings += about(
            photos,
            "corrupt_photo",
            "error",
            f"photos cannot be read: {photos[0].photo_error}",
            f"repair or {LEAVE_OUT}",
        )
    if masks:
        meaning = f"annotations cannot be read: {masks[0].mask_error}"
        findings += about(masks, "corrupt_mask", "error", meaning, f"repair or {LEAVE_OUT}")
    return findings


def unpaired_files(data: DataFacts) -> list[Finding]:
    pairs = "a photo and its annotation have the same name, apart from the suffix"
    annotated = {split for split, rows in data.splits.items() if rows.has_annotations}
    missing = [sample for sample in data.samples if not sample.has_mask and sample.split in annotated]
    lonely = [sample for sample in data.samples if not sample.has_photo]
    return [
        *about(missing, "missing_mask", "error", f"photos have no annotation: {pairs}", f"annotate or {LEAVE_OUT}"),
        *about(
            lonely,
            "mask_without_photo",
            "error",
            f"annotations have no photo: {pairs}",
            f"add the photos, or {LEAVE_OUT}",
        ),
        *(
            Finding("no_annotations", "error", f"the split {split} has no annotations", "choose --annotation-column")
            for split in data.splits
            if split not in annotated and not is_test_split(split)
        ),
    ]


def sizes(data: DataFacts) -> list[Finding]:
    """Photo and annotation of different sizes; if the photo is turned by its EXIF data and the annotation is not, the
    sizes are each other's reverse.
    """
    turned: list[SampleFacts] = []
    others: list[SampleFacts] = []
    for sample, photo in photos_of(data):
        if sample.mask is not None and sample.mask.size != photo.size:
            is_turned = photo.orientation > 1 and sample.mask.size == photo.size[::-1]
            (turned if is_turned else others).append(sample)
    findings = about(
        turned, "exif_turned", "error",
        "EXIF data turn the photos, but the annotations lie as the photos were stored",
        "turn the annotations likewise, or save the photos upright (PIL.ImageOps.exif_transpose) and annotate those",
    )  # fmt: skip
    if others:
        first = others[0]
        assert first.photo is not None and first.mask is not None
        (width, height), (mask_width, mask_height) = first.photo.size, first.mask.size
        findings += about(
            others, "size_mismatch", "error",
            f"photo and annotation differ in size: {width} × {height} and {mask_width} × {mask_height} pixels in "
            f"{first.title}",
            "export the annotations at the size of the photos; resize them only by Image.resize(size, Image.NEAREST)",
        )  # fmt: skip
    return findings


def extreme_sizes(data: DataFacts) -> list[Finding]:
    tiny = [sample for sample, photo in photos_of(data) if min(photo.size) < SMALLEST_SIDE]
    huge = [sample for sample, photo in photos_of(data) if photo.size[0] * photo.size[1] > MOST_PIXELS]
    strips = [
        sample
        for sample, photo in photos_of(data)
        if max(photo.size) > LARGEST_ASPECT * min(photo.size) and min(photo.size) >= SMALLEST_SIDE
    ]
    return [
        *about(
            tiny, "tiny_photo", "warning", f"photos have a side of less than {SMALLEST_SIDE} pixels",
            "remove them if they are thumbnails; a crop of training is mostly padding with them",
        ),
        *about(
            huge, "huge_photo", "warning", f"photos have more than {MOST_PIXELS // 10**6} megapixels",
            "cut them into tiles: training decodes a whole photo for each crop",
        ),
        *about(
            strips, "strip", "warning", f"photos are more than {LARGEST_ASPECT} times as long as wide",
            "cut them into pieces, or remove them if they are banners",
        ),
    ]  # fmt: skip


def kinds_of_photos(data: DataFacts) -> list[Finding]:
    blank = [sample for sample, photo in photos_of(data) if photo.is_constant]
    deep = [sample for sample, photo in photos_of(data) if photo.mode.startswith(("I", "F"))]
    alpha = [sample for sample, photo in photos_of(data) if photo.has_alpha]
    turned = [
        sample
        for sample, photo in photos_of(data)
        if photo.orientation > 1 and (sample.mask is None or sample.mask.size == photo.size)
    ]
    return [
        *about(
            blank, "blank_photo", "warning", "photos are of a single colour", "remove them: there is nothing to see"
        ),
        *about(
            deep, "deep_photo", "note", "photos hold 16-bit or floating-point intensities, of which 8 bits are used",
            "if they look dark or flat, as those of 12-bit cameras do, save them in 8 bits with a contrast you choose",
        ),
        *about(
            alpha, "alpha_photo", "note", "photos have an alpha channel, which is dropped",
            "if what is transparent must not be learnt, make it 255 in the annotations",
        ),
        *about(
            turned, "exif_photo", "note", "EXIF data turn these photos upright, and their annotations fit that",
            "nothing, unless another tool of yours ignores EXIF data",
        ),
    ]  # fmt: skip


CHECKS = (corrupt_files, unpaired_files, sizes, extreme_sizes, kinds_of_photos)
