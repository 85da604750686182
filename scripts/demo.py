"""Trains a small SETR-MLA from random weights and shows what it sees by the stock pipeline."""

if __name__ == "__main__":  # Here, as the imports below take seconds, in which it can be interrupted.
    from setr_hf_cli import run_script

    raise SystemExit(run_script(__file__))

import argparse
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from transformers import ImageSegmentationPipeline, pipeline, set_seed

from setr_hf.cli import JobParser, positive
from setr_hf.data.arguments import DataArguments, load_data
from setr_hf.data.rows import SegmentationData
from setr_hf.data.scenes import make_scenes
from setr_hf.files import whole_file
from setr_hf.inference.devices import has_bf16
from setr_hf.inference.pictures import class_colors, comparison_sheet
from setr_hf.metrics import confusion_matrix, segmentation_scores
from setr_hf.progress import progress_bar
from setr_hf.training.options import parse_command
from setr_hf.training.setup import make_trainer


def parse_arguments(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = JobParser(DataArguments, description=__doc__, epilog="Without --dataset, it trains on generated scenes.")
    parser.add_argument("--output", type=Path, default=Path("outputs/demo"), help="folder for model and pictures")
    parser.add_argument("--max-steps", type=positive, help="training steps, if not the recipe's")
    return parser.parse_args(argv)


def train(arguments: argparse.Namespace, train_data: SegmentationData, validation_data: SegmentationData) -> None:
    """Trains by the recipe for small images, as the train job does, and saves the model."""
    recipe = "setr-mla-small-camvid" if arguments.dataset else "setr-mla-small-scenes"
    options = ["--recipe", recipe, "--dataset", arguments.dataset or "scenes", "--output-dir", str(arguments.output)]
    options += ["--eval-strategy", "no", "--save-strategy", "no", "--seed", "0"]
    if arguments.max_steps:
        options += ["--max-steps", str(arguments.max_steps)]
    use_cpu = not torch.cuda.is_available()
    if use_cpu:
        options.append("--use-cpu")
    if not has_bf16(use_cpu):
        options += ["--bf16", "false"]
    command = parse_command(options)
    job, training_arguments = command.to_dataclasses()
    set_seed(training_arguments.seed)
    trainer, _ = make_trainer(command, job, training_arguments, train_data, validation_data)
    print(f"SETR-MLA with {trainer.model.num_parameters() / 1e6:.1f} M parameters on {len(train_data)} images")
    trainer.train()
    trainer.save_model()


def pipeline_label_map(segmenter: ImageSegmentationPipeline, photo: Image.Image) -> np.ndarray:
    """The masks that the pipeline returns for a photo as one label map `(height, width)`."""
    label_map = np.zeros((photo.height, photo.width), dtype=np.uint8)
    for segment in segmenter(photo):
        label_map[np.asarray(segment["mask"]) > 0] = segmenter.model.config.label2id[segment["label"]]
    return label_map


def evaluate(segmenter: ImageSegmentationPipeline, validation_data: SegmentationData) -> tuple[dict[str, Any], list]:
    """Scores over the held-out photos, and photo, ground truth and prediction of six of them."""
    matrix: Any = 0
    samples = []
    shown = set(np.linspace(0, len(validation_data) - 1, 6).round().astype(int).tolist())
    for index, sample in enumerate(progress_bar(len(validation_data), "photo", iterable=validation_data)):
        prediction = pipeline_label_map(segmenter, sample.photo)
        matrix = matrix + confusion_matrix(prediction, sample.label_map, len(validation_data.label_set.names))
        if index in shown:
            samples.append((sample.photo, sample.label_map, prediction))
    return segmentation_scores(matrix), samples


def main(argv: Sequence[str] | None = None) -> int:
    arguments = parse_arguments(argv)
    start = time.perf_counter()
    if arguments.dataset is None:
        train_data, validation_data = make_scenes(600, 0), make_scenes(100, 10_000)
    else:
        train_data, validation_data = (load_data(arguments, split) for split in ("train", "validation"))
    train(arguments, train_data, validation_data)

    segmenter = pipeline("image-segmentation", model=str(arguments.output))
    scores, samples = evaluate(segmenter, validation_data)
    id2label = train_data.label_set.id2label
    for index, name in id2label.items():
        print(f"{name:>14}  IoU {scores['per_category_iou'][index]:.3f}")
    mean_iou, accuracy = scores["mean_iou"], scores["overall_accuracy"]
    print(f"mean IoU {mean_iou:.3f}, pixel accuracy {accuracy:.3f} on {len(validation_data)} held-out images")
    sheet = arguments.output / "sheet.png"
    with whole_file(sheet) as unfinished:
        comparison_sheet(samples, class_colors(segmenter.model.config), id2label).save(unfinished)
    print(f"model in {arguments.output}, pictures in {sheet}, {(time.perf_counter() - start) / 60:.1f} minutes")
    return 0
