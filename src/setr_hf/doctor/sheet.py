"""A sheet of pictures from a data set: some samples of each finding, and some of all."""

import numpy as np
from PIL import Image

from ..data.label_sets import INVALID
from ..data.rows import decode
from ..errors import SetrError
from ..inference.photos import shown_photo, upright_rgb
from ..inference.pictures import (
    IGNORED_COLOR,
    MARGIN,
    color_label_map,
    distinct_colors,
    draw_headings,
    draw_legend,
    draw_line,
    picture_row,
    stack,
)
from ..model.image_processing_setr import IGNORED_LABEL
from .findings import Finding
from .samples import DataFacts, SampleFacts


SIZE = 360  # pixels, of the longer side of a picture
NUM_SPREAD, NUM_OF_FINDING, MOST_ROWS = 6, 2, 40
# A class id that no label map holds, for values without a meaning.
UNKNOWN, UNKNOWN_COLOR = 254, [255, 0, 255]
HEADINGS = ("photo", "annotation", "annotation over the photo")


def captioned_samples(facts: DataFacts, findings: list[Finding]) -> list[tuple[str, SampleFacts]]:
    """The first samples of each finding, and some that are evenly spread over all, with a caption for each."""
    by_title = {sample.title: sample for sample in facts.samples}
    chosen = [
        (f"{finding.kind}: {title}", by_title[title])
        for finding in findings
        for title in finding.samples[:NUM_OF_FINDING]
        if title in by_title
    ]
    positions = np.linspace(0, len(facts.samples) - 1, min(NUM_SPREAD, len(facts.samples))).astype(int)
    chosen += [(facts.samples[i].title, facts.samples[i]) for i in positions]
    shown = [(caption, sample) for caption, sample in chosen if sample.photo is not None]
    return shown[:MOST_ROWS]


def colored_annotation(sample: SampleFacts, row: dict, facts: DataFacts, colors: list[list[int]]) -> Image.Image:
    """The annotation in the colours of its classes; one that does not hold ids as it is."""
    if sample.mask is None:
        return Image.new("RGB", (1, 1), "white")
    mask = decode(row["annotation"], f"the annotation of {sample.name}")
    if sample.mask.counts is None:
        try:
            return upright_rgb(mask)
        except ValueError:  # Of floating-point numbers, for one.
            return Image.new("RGB", (1, 1), "white")
    ids = facts.label_set.lookup[np.asarray(mask).astype(np.uint8)]
    return color_label_map(np.where(ids == INVALID, UNKNOWN, ids), colors, IGNORED_LABEL)


def draw_sheet(facts: DataFacts, findings: list[Finding]) -> Image.Image:
    """A row for each chosen sample, and a legend of the classes that occur."""
    label_set = facts.label_set
    colors = (label_set.palette or distinct_colors(len(label_set.names))) + [UNKNOWN_COLOR] * 255
    colors[UNKNOWN] = UNKNOWN_COLOR
    rows = [draw_headings(HEADINGS, SIZE)]
    for caption, sample in captioned_samples(facts, findings):
        row = facts.splits[sample.split].undecoded[sample.index]
        try:
            photo = shown_photo(facts.splits[sample.split].read_photo(row["image"], sample.name))
            annotation = colored_annotation(sample, row, facts, colors)
        except SetrError:  # The file has changed since it was read.
            continue
        both = photo
        if sample.mask is not None:
            both = Image.blend(photo, annotation.resize(photo.size, Image.Resampling.NEAREST), 0.5)
        pictures = picture_row(photo, [annotation, both], SIZE)
        rows += [draw_line(pictures.width, [(MARGIN, caption)]), pictures]
    occurring = np.flatnonzero(facts.class_counts()[:IGNORED_LABEL]).tolist()
    legend = [(label_set.names[i], colors[i]) for i in occurring]
    legend += [("ignored", IGNORED_COLOR), ("none of the classes", UNKNOWN_COLOR)]
    return stack([*rows, draw_legend(rows[0].width, legend)])
