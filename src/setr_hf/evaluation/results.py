"""What an evaluation depends on, and its results: scores of classes and images, table, files."""

import hashlib
import json
from pathlib import Path

import numpy as np
import torch
from transformers import AutoImageProcessor, AutoModelForSemanticSegmentation

from ..data.label_sets import LabelSet, check_classes
from ..data.rows import Sample, SegmentationData
from ..metrics import confusion_matrix, segmentation_scores
from .charts import class_bars, confusion_picture
from .records import counts_of, matrix_of, sum_matrices, write_text


def load_for_evaluation(path: str, label_set: LabelSet, dtype: str, device: torch.device):
    """
    The model of a folder or Hub id, in evaluation mode on `device`, and its image processor.

    Raises:
        `ValueError`: see [`check_classes`]; names the model.
    """
    model = AutoModelForSemanticSegmentation.from_pretrained(path, dtype=dtype).to(device).eval()
    try:
        check_classes(model.config, label_set)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    return model, AutoImageProcessor.from_pretrained(path)


def digest(*parts: bytes) -> str:
    """16 hex digits that tell contents apart."""
    total = hashlib.sha256()
    for part in parts:
        total.update(len(part).to_bytes(8, "little") + part)
    return total.hexdigest()[:16]


def model_digest(model) -> str:
    """Tells models apart by their weights and by what of their configuration changes what they compute."""
    config = model.config.to_dict()
    for name in ("_name_or_path", "transformers_version", "dtype", "id2label", "label2id", "palette"):
        config.pop(name, None)
    tensors = model.state_dict()
    parts = (np.asarray(tensors[key].cpu().contiguous().view(-1).view(torch.uint8)) for key in sorted(tensors))
    return digest(json.dumps(config, sort_keys=True, default=str).encode(), *(part.tobytes() for part in parts))


def processor_digest(processor) -> str:
    """Tells image processors apart."""
    fields = {key: value for key, value in processor.to_dict().items() if key not in ("auto_map", "_name_or_path")}
    return digest(json.dumps(fields, sort_keys=True, default=str).encode())


def dataset_digest(data: SegmentationData) -> str:
    """Tells data sets apart by the names of their images and the meaning of their labels; images are not read."""
    return digest(json.dumps(list(data.rows["name"])).encode(), data.label_set.lookup.tobytes())


def evaluation_settings(model, processor, data, scales, batch_size, window_batch_size) -> dict:
    """
    All that an evaluation depends on. Batch sizes and CPU threads belong to it because they change the last bits of
    floating-point sums, and so, rarely, the class of a pixel.
    """
    return {
        "model": model_digest(model),
        "image_processor": processor_digest(processor),
        "dataset": dataset_digest(data),
        "protocol": "single" if scales is None else "multi",
        "scales": None if scales is None else list(scales),
        "mirrored": scales is not None,
        "dtype": str(model.dtype).removeprefix("torch."),
        "batch_size": batch_size,
        "window_batch_size": window_batch_size,
        "device": model.device.type,
        "threads": torch.get_num_threads() if model.device.type == "cpu" else None,
    }


def image_record(sample: Sample, prediction: torch.Tensor, num_labels: int) -> dict:
    """
    The record of an image: its confusion matrix, or none where it has no annotation.

    Args:
        sample (`Sample`): The image with its true label map.
        prediction (`torch.Tensor` of shape `(height, width)`): Predicted class ids.
    """
    if sample.label_map is None:
        return {"cells": None, "counts": None}
    return counts_of(confusion_matrix(prediction, sample.label_map, num_labels))


def summarize(records: list[dict], label_set: LabelSet) -> dict:
    """
    Scores of a data set from the records of its images, 0 to 1, `None` where a score is undefined: means over all
    classes that occur, a list of the classes, the names of the absent ones, and the mIoU of each image by itself.
    """
    num_labels = len(label_set.id2label)
    matrix = sum_matrices(records, num_labels)
    scores = segmentation_scores(matrix)

    def defined(value):
        return None if np.isnan(value) else float(value)

    means = ("mean_iou", "mean_accuracy", "overall_accuracy", "frequency_weighted_iou", "mean_dice")
    return {
        **{name: defined(scores[name]) for name in means},
        "num_images": len(records),
        "num_pixels": scores["num_pixels"],
        "num_classes": num_labels,
        "num_absent_classes": scores["num_absent_classes"],
        "absent_classes": [label_set.id2label[i] for i in scores["absent_classes"]],
        "classes": [
            {
                "id": i,
                "name": label_set.id2label[i],
                "iou": defined(scores["per_category_iou"][i]),
                "accuracy": defined(scores["per_category_accuracy"][i]),
                "dice": defined(scores["per_category_dice"][i]),
                "labelled_pixels": int(matrix[i].sum()),
                "predicted_pixels": int(matrix[:, i].sum()),
            }
            for i in range(num_labels)
        ],
        "images": [
            {
                "index": record["index"],
                "name": record["name"],
                "mean_iou": defined(segmentation_scores(matrix_of(record, num_labels))["mean_iou"]),
            }
            for record in records
        ],
    }


def worst_images(summary: dict, count: int) -> list[dict]:
    """The images of the lowest mIoU, the worst first; those without a counted pixel are left out."""
    counted = [image for image in summary["images"] if image["mean_iou"] is not None]
    return sorted(counted, key=lambda image: (image["mean_iou"], image["index"]))[:count]


def class_table(summary: dict) -> str:
    """The scores as a table in percent, for a terminal."""

    def percent(value):
        return "  –   " if value is None else f"{100 * value:6.2f}"

    width = max(len(row["name"]) for row in summary["classes"])
    lines = [f"{'class':<{width}}     IoU     Acc    Dice       pixels"]
    for row in summary["classes"]:
        scores = "  ".join(percent(row[name]) for name in ("iou", "accuracy", "dice"))
        lines.append(f"{row['name']:<{width}}  {scores} {row['labelled_pixels']:>12,}")
    lines.append(
        f"mIoU {percent(summary['mean_iou'])}  mAcc {percent(summary['mean_accuracy'])}  "
        f"aAcc {percent(summary['overall_accuracy'])}  fwIoU {percent(summary['frequency_weighted_iou'])}  "
        f"mDice {percent(summary['mean_dice'])}   of {summary['num_images']} images"
    )
    if summary["num_absent_classes"]:
        lines.append(
            f"{summary['num_absent_classes']} classes are neither labelled nor predicted and left out of the means: "
            + ", ".join(summary["absent_classes"])
        )
    return "\n".join(lines)


def write_report(folder: Path, summary: dict, settings: dict, matrix: np.ndarray):
    """
    Writes `results.json` (scores and settings), `confusion_matrix.npy` (int64, true classes in the rows), and the
    pictures `classes.png` and `confusion_matrix.png`.
    """
    write_text(folder / "results.json", json.dumps({"settings": settings, **summary}, indent=2, ensure_ascii=False))
    np.save(folder / "confusion_matrix.npy", matrix)
    names = [row["name"] for row in summary["classes"]]
    miou = "undefined" if summary["mean_iou"] is None else f"{100 * summary['mean_iou']:.2f} %"
    title = f"IoU of each class in percent, mIoU {miou}, {summary['num_images']} images"
    class_bars(summary["classes"], title).save(folder / "classes.png")
    confusion_picture(matrix, names).save(folder / "confusion_matrix.png")
