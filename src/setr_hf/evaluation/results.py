"""The results of an evaluation: scores of classes and images, as a table and as files."""

from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from ..data.label_sets import LabelSet
from ..data.rows import SegmentationData
from ..files import whole_file, write_json
from ..inference.pictures import class_colors, comparison_sheet
from ..inference.segmenter import Segmenter
from ..metrics import class_ious, mean_over_classes, segmentation_scores
from ..tables import percent, print_table
from ..text import printable
from .records import sum_records


MEANS = {"mean_iou": "mIoU", "mean_accuracy": "mAcc", "overall_accuracy": "aAcc"}
MEANS |= {"frequency_weighted_iou": "fwIoU", "mean_dice": "mDice"}
PRINTED = {**MEANS, "per_image_mean_iou": "per-image mIoU", "expected_calibration_error": "ECE"}
NUM_WORST_IMAGES = 16


def image_mean_iou(matrix: np.ndarray) -> float:
    """The mean IoU, 0 to 1, of the confusion matrix of one image, over the classes that are labelled in it; NaN if
    none is (mIoU^I of Wang et al., "Revisiting Evaluation Metrics for Semantic Segmentation"). A class that is only
    predicted lowers the IoU of those in whose place it stands.
    """
    labelled = matrix.sum(axis=1)
    ious = class_ious(matrix.diagonal(), labelled, matrix.sum(axis=0))
    return float(mean_over_classes(np.where(labelled > 0, ious, np.nan)))


def summarize(
    records: Iterable[dict], label_set: LabelSet, bad_samples: Sequence[dict] = ()
) -> tuple[dict, np.ndarray]:
    """The scores of a data set from the records of its images, see [`Records`], and the confusion matrix, int64 of
    shape `(num_labels, num_labels)`, with true classes in the rows. Scores are 0 to 1, `None` where undefined: means
    over all classes that occur, `classes` with the scores of each, `absent_classes` with the names of those that do
    not occur, `images` with the [`image_mean_iou`] of each, and `per_image_mean_iou`, the mean of these.
    `bad_samples` are those that the scores leave out.
    """
    names = label_set.names

    def defined(value: float) -> float | None:
        return None if np.isnan(value) else float(value)

    matrix, images = np.zeros((len(names), len(names)), dtype=np.int64), []
    for record in records:
        image_matrix = sum_records([record], len(names))
        matrix += image_matrix
        mean_iou = defined(image_mean_iou(image_matrix))
        images.append({"index": record["index"], "name": record["name"], "mean_iou": mean_iou})
    scores = segmentation_scores(matrix)
    counted = [image["mean_iou"] for image in images if image["mean_iou"] is not None]
    summary = {
        **{name: defined(scores[name]) for name in MEANS},
        "per_image_mean_iou": sum(counted) / len(counted) if counted else None,
        "num_images": len(images),
        "num_classes": len(names),
        **{name: scores[name] for name in ("num_pixels", "num_absent_classes")},
        "absent_classes": [names[i] for i in scores["absent_classes"]],
        "classes": [
            {
                "id": i,
                "name": name,
                **{kind: defined(scores[f"per_category_{kind}"][i]) for kind in ("iou", "accuracy", "dice")},
                "labelled_pixels": int(matrix[i].sum()),
                "predicted_pixels": int(matrix[:, i].sum()),
            }
            for i, name in enumerate(names)
        ],
        "images": images,
        "bad_samples": list(bad_samples),
    }
    return summary, matrix


def images_counted(summary: dict) -> str:
    """How many images the scores are of, and of how many if some were left out."""
    count, skipped = summary["num_images"], len(summary["bad_samples"])
    return f"{count} of {count + skipped} images, {skipped} bad samples skipped" if skipped else f"{count} images"


def worst_images(summary: dict, count: int) -> list[dict]:
    """The images of the lowest mIoU, the worst first; images of which every pixel is ignored are left out."""
    counted = [image for image in summary["images"] if image["mean_iou"] is not None]
    return sorted(counted, key=lambda image: (image["mean_iou"], image["index"]))[:count]


def print_scores(summary: dict) -> None:
    """Prints the scores of the classes as a table in percent, the means, and the expected calibration
    error (ECE) if `summary` holds it.
    """
    rows = (
        (row["name"], *(percent(row[name]) for name in ("iou", "accuracy", "dice")), f"{row['labelled_pixels']:,}")
        for row in summary["classes"]
    )
    print_table(("class", "IoU", "Acc", "Dice", "pixels"), rows)
    shown = {label: summary[name] for name, label in PRINTED.items() if name in summary}
    means = "  ".join(f"{label} {percent(value) or '–'}" for label, value in shown.items())
    print(f"{means}  of {images_counted(summary)}")
    if absent := summary["absent_classes"]:
        names = ", ".join(map(printable, absent))
        print(f"{len(absent)} classes are neither labelled nor predicted and left out of the means: {names}")


def write_report(folder: Path, summary: dict, matrix: np.ndarray, settings: dict) -> None:
    """Writes `results.json`, `confusion_matrix.npy` (int64, truth in the rows), a chart of each, and the reliability
    diagram if `summary` holds the calibration.
    """
    from .charts import class_bars, confusion_heat_map, reliability_diagram, save_chart  # matplotlib takes a second.

    write_json(folder / "results.json", {"settings": settings, **summary})
    with whole_file(folder / "confusion_matrix.npy") as unfinished:
        np.save(unfinished, matrix)
    mean_iou = "undefined" if summary["mean_iou"] is None else f"{percent(summary['mean_iou'])} %"
    title = f"IoU of each class in percent, mIoU {mean_iou}, {images_counted(summary)}"
    save_chart(class_bars(summary["classes"], title), folder / "classes.png")
    names = [row["name"] for row in summary["classes"]]
    save_chart(confusion_heat_map(matrix, names), folder / "confusion_matrix.png")
    if summary.get("expected_calibration_error") is not None:
        title = f"expected calibration error {percent(summary['expected_calibration_error'])} %"
        save_chart(reliability_diagram(summary["calibration"], title), folder / "reliability.png")


def write_worst_images(path: Path, summary: dict, data: SegmentationData, segmenter: Segmenter) -> None:
    """Writes a picture of the images of the lowest mIoU: photo, ground truth and prediction."""
    samples, captions = [], []
    for image in worst_images(summary, NUM_WORST_IMAGES):
        sample = data[image["index"]]
        assert sample.label_map is not None  # Or the image would have no mIoU.
        samples.append((sample.photo, sample.label_map, segmenter([sample.photo])[0].numpy()))
        captions.append(f"{sample.name}   mean IoU {percent(image['mean_iou'])} %")
    if samples:
        colors, id2label = class_colors(segmenter.model.config), data.label_set.id2label
        with whole_file(path) as unfinished:
            comparison_sheet(samples, colors, id2label, captions).save(unfinished)
