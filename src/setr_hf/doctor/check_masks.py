"""What is wrong with the annotations: how they were saved, what their values mean, and where they lie."""

from collections import Counter, defaultdict
from collections.abc import Callable

import numpy as np

from ..data.label_sets import INVALID, NAMES_FILE, NUM_IDS_SHOWN
from ..model.image_processing_setr import IGNORED_LABEL
from .edges import EdgeScores
from .findings import Finding, about
from .samples import DataFacts, MaskFacts, SampleFacts, classes_of, ids_of


# Of the borders in an annotation, those that values in between soften: 0 to 0.14 in hand-made ones, 0.6 to 1 after
# interpolation.
MOST_RAMPS, FEWEST_RAMPS = 0.4, 20
# What 0 becomes: 255, then this.
TWICE_REDUCED = 254
# Unknown values of a JPEG's noise are many, and each is rare.
FEWEST_STRAY_IDS, MOST_STRAY = 3, 0.02
# Pixels, of all, that are ignored.
MOST_IGNORED = 0.5
# Annotations of a single class, of all.
MOST_CONSTANT = 0.2
# See `EdgeScores`; measured on CamVid and ADE20K, where those that fit have 0.35 to 1.2, and up to 0.34 if they are
# mirrored or belong to another photo.
FIT, CLEARLY_BETTER = 0.3, 0.15
UNRELATED, CLEARLY_WORSE, SHARE_OF_USUAL = 0.15, 0.2, 0.3
FEWEST_TO_COMPARE = 8
SHIFTS_AGREE = 6  # pixels
NEAREST = "resize annotations by Image.resize(size, Image.NEAREST) alone, from the originals"


def masks_of(data: DataFacts) -> list[tuple[SampleFacts, MaskFacts]]:
    return [(sample, sample.mask) for sample in data.samples if sample.mask is not None]


def is_interpolated(mask: MaskFacts) -> bool:
    return mask.num_ramps >= FEWEST_RAMPS and mask.num_ramps > MOST_RAMPS * (mask.num_ramps + mask.num_steps)


def is_blurred(mask: MaskFacts) -> bool:
    """Whether values that mean nothing are explained by how the annotation was saved."""
    return mask.format == "JPEG" or is_interpolated(mask)


def forms(data: DataFacts) -> list[Finding]:
    """How annotations were saved."""
    masks = masks_of(data)
    colored = [sample for sample, mask in masks if mask.channels > 1]
    others = [sample for sample, mask in masks if mask.channels == 1 and mask.counts is None]
    contents = others[0].mask.contents if others and others[0].mask else ""
    return [
        *about(
            [sample for sample, mask in masks if mask.format == "JPEG"], "jpeg_mask", "error",
            "annotations are JPEGs, whatever their names say, which blur and shift ids",
            "export them once more as PNG; a JPEG that is only converted keeps its false ids",
        ),
        *about(
            [sample for sample, mask in masks if mask.format != "JPEG" and is_interpolated(mask)],
            "interpolated_mask", "error",
            "annotations have bands of ids in between along their borders: they were resized or turned with "
            "interpolation, or were JPEGs once", NEAREST,
        ),
        *about(
            [sample for sample in colored if sample.mask and sample.mask.format != "JPEG"], "colour_mask", "error",
            "annotations hold colours, or several channels, instead of one id per pixel",
            'turn each colour into its class id and save one channel: Image.fromarray(ids.astype("uint8"))',
        ),
        *about(
            others, "mask_values", "error", f"annotations do not hold ids from 0 to 255, but {contents}",
            'save ids as 8 bits: Image.fromarray(ids.astype("uint8")); more than 255 classes are not supported',
        ),
    ]  # fmt: skip


def palettes(data: DataFacts) -> list[Finding]:
    """Annotations in which a value has another colour than in most: what counts may have been the colour."""
    colored = [(sample, mask.colors) for sample, mask in masks_of(data) if mask.colors and mask.counts is not None]
    seen: dict[int, Counter] = defaultdict(Counter)
    for _, colors in colored:
        for value, color in colors.items():
            seen[value][color] += 1
    usual = {value: colors.most_common(1)[0][0] for value, colors in seen.items()}
    odd = [sample for sample, colors in colored if any(usual[value] != color for value, color in colors.items())]
    return about(
        odd, "mixed_palettes", "warning",
        "annotations are PNGs with palettes that give a value another colour than most do, as when each was quantized "
        "by itself: the same value may be several classes",
        "export them with one palette for all, or turn their colours (Image.convert('RGB')) into class ids",
    )  # fmt: skip


def meaning_of_values(data: DataFacts) -> list[Finding]:
    """Whether values are off by one or reduced twice, the first that applies, and those that remain unknown."""
    if not data.has_names:
        return []
    causes = (cause(data) for cause in (black_and_white, counted_from_one, reduced_twice, one_more_value))
    findings = next((found for found in causes if found), [])
    explained = [len(data.label_set.names), TWICE_REDUCED] if findings else []
    return findings + unknown_values(data, explained)


def occurring(data: DataFacts) -> np.ndarray:
    """Which values occur, `(256,)`, in annotations that are not blurred."""
    counts = [ids_of(sample) for sample in data.with_ids if sample.mask and not is_blurred(sample.mask)]
    return np.sum([np.zeros(256, dtype=np.int64), *counts], axis=0) > 0


def holding(data: DataFacts, value: int) -> list[SampleFacts]:
    return [sample for sample in data.with_ids if ids_of(sample)[value]]


def is_direct(data: DataFacts) -> bool:
    """Whether values are class ids."""
    count = len(data.label_set.names)
    return bool((data.label_set.lookup[:count] == np.arange(count)).all())


def black_and_white(data: DataFacts) -> list[Finding]:
    lookup = data.label_set.lookup
    if lookup[IGNORED_LABEL] != IGNORED_LABEL or len(data.label_set.names) > 2:
        return []
    masks = [sample for sample in data.with_ids if set(np.flatnonzero(ids_of(sample))) <= {0, 255}]
    white = [sample for sample in masks if ids_of(sample)[255]]
    if not any(ids_of(sample)[0] for sample in white):
        return []
    is_all = len(masks) == len(data.with_ids)
    others = "" if is_all else f", {len(data.with_ids) - len(masks)} others hold other values"
    return about(
        white, "binary_255", "error" if is_all else "warning",
        f"annotations hold 0 and 255 only{others}; 255 is the ignored value, so what is white is never learnt",
        f'if 255 stands for class 1, write "values": {{"0": 0, "255": 1}} into {NAMES_FILE}'
        + ("" if is_all else " and save all in the same values"),
    )  # fmt: skip


def counted_from_one(data: DataFacts) -> list[Finding]:
    """Value 0 never occurs, and the one after the last class does, or all other classes do."""
    count, found, lookup = len(data.label_set.names), occurring(data), data.label_set.lookup
    if not is_direct(data) or found[0] or not found[1]:
        return []
    is_beyond = count < IGNORED_LABEL and found[count]
    if not is_beyond and (count < 3 or not found[1:count].all()):
        return []
    advice = f'if values count from 1, write "reduce_labels": true into {NAMES_FILE}: 0 is ignored, k is class k − 1'
    if is_beyond and lookup[count] == INVALID:
        meaning = f"ids count from 1: 0 never occurs, and {count} does, while the {count} classes are 0 to {count - 1}"
        return about(holding(data, count), "counts_from_one", "error", meaning, advice)
    more = f", and {count}, which is ignored, does" if is_beyond else f", all other ids up to {count - 1} do"
    meaning = f"class 0, {data.label_set.names[0]!r}, never occurs{more}: do ids count from 1?"
    return [Finding("counts_from_one", "warning", meaning, advice)]


def reduced_twice(data: DataFacts) -> list[Finding]:
    count, found = len(data.label_set.names), occurring(data)
    if data.label_set.is_reduced and found[255] and not found[count]:
        meaning = (
            f"labels are reduced twice: {NAMES_FILE}, or the public data set, says that 1 to {count} are the classes, "
            f"but {count} never occurs and 255 does, as in annotations that are reduced already"
        )
        advice = f'write "reduce_labels": false into {NAMES_FILE}'
        return about(holding(data, 255), "reduced_twice", "error", meaning, advice)
    if (
        is_direct(data)
        and data.label_set.lookup[TWICE_REDUCED] == INVALID
        and found[TWICE_REDUCED]
        and not found[count - 1]
    ):
        meaning = (
            f"labels were reduced twice: {TWICE_REDUCED} occurs, which is 0 after two reductions, and the last class, "
            f"{count - 1}, never does"
        )
        advice = "export the annotations anew, and reduce them once"
        return about(holding(data, TWICE_REDUCED), "reduced_twice", "error", meaning, advice)
    return []


def one_more_value(data: DataFacts) -> list[Finding]:
    """0 to the number of classes occur."""
    count, found = len(data.label_set.names), occurring(data)
    unknown = np.flatnonzero(found & (data.label_set.lookup == INVALID)).tolist()
    if not is_direct(data) or unknown != [count]:
        return []
    return about(
        holding(data, count), "one_value_more", "error",
        f"annotations hold the value {count}, one more than the {count} classes have",
        f'in {NAMES_FILE}: "reduce_labels": true if 0 means "other" and classes count from 1; "ignore_index": {count} '
        f'if {count} means "void"; else name one class more in id2label',
    )  # fmt: skip


def unknown_values(data: DataFacts, explained: list[int]) -> list[Finding]:
    """Values without a meaning, but for those that another finding explains."""
    is_unknown = data.label_set.lookup == INVALID
    is_unknown[explained] = False
    samples = [sample for sample in data.with_ids if sample.mask and not is_blurred(sample.mask)]
    samples = [sample for sample in samples if ids_of(sample)[is_unknown].any()]
    stray = {sample for sample in samples if is_noise(ids_of(sample)[is_unknown], ids_of(sample).sum())}
    others = [sample for sample in samples if sample not in stray]
    values = np.flatnonzero(is_unknown & (sum(map(ids_of, others), np.zeros(256, dtype=np.int64)) > 0)).tolist()
    more = f" and {len(values) - NUM_IDS_SHOWN} more" if len(values) > NUM_IDS_SHOWN else ""
    return [
        *about(
            [sample for sample in samples if sample in stray], "stray_ids", "error",
            "a few pixels of annotations hold many values that are none of the classes, as JPEG or resizing leaves "
            "them",
            f"export them once more as PNG; {NEAREST}",
        ),
        *about(
            others, "unknown_ids", "error",
            f"annotations hold the values {values[:NUM_IDS_SHOWN]}{more}, which are none of the "
            f"{len(data.label_set.names)} classes",
            f'in {NAMES_FILE}, name them in id2label, map them to classes with "values", or, if they mean "void", set '
            '"ignore_index"; or pass --labels with another such file',
        ),
    ]  # fmt: skip


def is_noise(counts: np.ndarray, num_pixels: int) -> bool:
    return int((counts > 0).sum()) >= FEWEST_STRAY_IDS and counts.sum() < MOST_STRAY * num_pixels


def contents(data: DataFacts) -> list[Finding]:
    """Annotations with nothing in them that could be learnt."""
    if not data.has_names:
        return []
    by_class = {sample.title: classes_of(ids_of(sample), data.label_set) for sample in data.with_ids}
    blank = [sample for sample in data.with_ids if by_class[sample.title][IGNORED_LABEL] == ids_of(sample).sum()]
    if blank and len(blank) == len(data.with_ids):
        meaning = "every pixel of every annotation is ignored"
        return about(blank, "blank_mask", "error", meaning, f'see "ignore_index" and "values" in {NAMES_FILE}')
    constant = [
        sample for sample in data.with_ids if by_class[sample.title][:IGNORED_LABEL].max() == ids_of(sample).sum()
    ]
    is_usual = len(constant) > MOST_CONSTANT * len(data.with_ids)
    counts = data.class_counts()
    ignored = counts[IGNORED_LABEL] / max(1, counts.sum())
    findings = about(
        blank, "blank_mask", "warning", "every pixel of these annotations is ignored", "annotate or remove them"
    ) + about(
        constant, "constant_mask", "warning" if is_usual else "note", "annotations hold one class alone",
        "look whether they were exported before they were drawn; else nothing",
    )  # fmt: skip
    if ignored > MOST_IGNORED:
        meaning = f"{ignored:.0%} of all pixels are ignored"
        advice = (
            f'is a background ignored that should be a class? See "reduce_labels" and "ignore_index" in {NAMES_FILE}'
        )
        findings.append(Finding("mostly_ignored", "warning", meaning, advice))
    return findings


def positions(data: DataFacts) -> list[Finding]:
    """Annotations whose borders do not lie on the edges of their photos."""
    scored = {sample: sample.edges for sample in data.samples if sample.edges is not None}
    if not scored:
        return []
    usual = float(np.median([edges.as_it_is for edges in scored.values()]))
    highest = float(np.median([max(edges.best, edges.turned) for edges in scored.values()]))

    def is_better(score: float, edges: EdgeScores) -> bool:
        return score > max(FIT, edges.as_it_is + CLEARLY_BETTER, highest / 2)

    turned = [sample for sample, edges in scored.items() if is_better(edges.turned, edges)]
    shifted = [
        sample
        for sample, edges in scored.items()
        if edges.is_shifted and is_better(edges.best, edges) and not is_better(edges.turned, edges)
    ]
    if usual < UNRELATED:
        # Hardly any fits: of many turns and shifts one fits better by chance, but not the same one for most.
        turned, shifted = most_common(turned, lambda s: scored[s].turn), most_common(shifted, rounded_shift)
        turned, shifted = ([] if len(some) < len(scored) / 2 else some for some in (turned, shifted))
    findings = turned_findings(turned) + shifted_findings(shifted)
    explained = {*turned, *shifted}
    rest = {sample: edges for sample, edges in scored.items() if sample not in explained}
    if len(rest) < FEWEST_TO_COMPARE:
        return findings
    advice = "look at them: do the names pair each photo with its own annotation?"
    if usual < UNRELATED:
        meaning = (
            f"the borders of the annotations hardly lie on edges of the photos ({usual:.2f}, 0.3 to 1.2 is usual)"
        )
        findings.append(Finding("unrelated_masks", "warning", meaning, advice))
    elif usual > FIT:
        odd = [sample for sample, edges in rest.items() if edges.as_it_is < min(CLEARLY_WORSE, SHARE_OF_USUAL * usual)]
        meaning = f"the borders of these annotations do not lie on edges of their photos, as most do ({usual:.2f})"
        findings += about(odd, "unrelated_masks", "warning", meaning, advice)
    return findings


def most_common(samples: list[SampleFacts], key: Callable[[SampleFacts], object]) -> list[SampleFacts]:
    """The samples that share the most common value of `key`."""
    counts = Counter(map(key, samples)).most_common(1)
    return [sample for sample in samples if key(sample) == counts[0][0]]


def rounded_shift(sample: SampleFacts) -> tuple[int, ...]:
    assert sample.edges is not None
    return tuple(round(pixels / SHIFTS_AGREE) for pixels in sample.edges.shift)


def turned_findings(samples: list[SampleFacts]) -> list[Finding]:
    edges = next((sample.edges for sample in samples), None)
    if edges is None:
        return []
    meaning = (
        f"annotations fit their photos far better if they are {edges.turn} (edges, {edges.turned:.2f} instead of "
        f"{edges.as_it_is:.2f}; the first of these)"
    )
    advice = "look at them, and turn or mirror the annotations as the photos were, EXIF data included"
    return about(samples, "turned_mask", "warning", meaning, advice)


def shifted_findings(samples: list[SampleFacts]) -> list[Finding]:
    edges = next((sample.edges for sample in samples), None)
    if edges is None:
        return []
    right, down = edges.shift
    meaning = (
        f"annotations fit their photos far better if they are moved by {-right:+d} pixels to the right and {-down:+d} "
        f"down (edges, {edges.best:.2f} instead of {edges.as_it_is:.2f}; the first of these)"
    )
    advice = "look at them: were photos and annotations cropped or padded differently?"
    return about(samples, "shifted_mask", "warning", meaning, advice)


def refused(data: DataFacts, findings: list[Finding]) -> list[Finding]:
    """Samples that `train` refuses for a reason that no finding about them gives."""
    explained = {title for finding in findings if finding.severity == "error" for title in finding.samples}
    samples = [sample for sample in data.samples if sample.refusal and sample.title not in explained]
    meaning = f"train refuses these samples: {samples[0].refusal}" if samples else ""
    return about(samples, "refused", "error", meaning, "mend what it names, or pass --skip-bad-samples")


CHECKS = (forms, palettes, meaning_of_values, contents, positions)
