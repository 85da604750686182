"""Trains a small SETR-MLA from random weights and shows what it sees by the stock pipeline."""

import sys
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from tqdm import tqdm
from transformers import ImageSegmentationPipeline, Trainer, TrainingArguments, pipeline, set_seed

from setr_hf import SetrConfig, SetrForSemanticSegmentation, SetrImageProcessor
from setr_hf.cli import JobParser, positive, run_job
from setr_hf.data.arguments import DataArguments, load_data
from setr_hf.data.augmentation import training_transform
from setr_hf.data.examples import collate, training_examples
from setr_hf.data.scenes import make_scenes
from setr_hf.inference.pictures import class_colors, comparison_sheet
from setr_hf.metrics import confusion_matrix, segmentation_scores


@dataclass(frozen=True)
class Settings:
    """What fits the data at hand: sizes in pixels, the encoder's width and depth, and the length of training."""

    shortest_edge: int
    crop_size: tuple[int, int]
    hidden_size: int
    num_hidden_layers: int
    batch_size: int
    max_steps: int
    learning_rate: float
    scale_range: tuple[float, float]


SCENES = Settings(128, (128, 160), 192, 4, 8, 600, 1e-3, (0.8, 1.4))
PHOTOGRAPHS = Settings(240, (240, 320), 192, 8, 2, 3400, 1e-3, (0.85, 1.3))


def parse_arguments(argv=None):
    parser = JobParser(DataArguments, description=__doc__, epilog="Without --dataset, it trains on generated scenes.")
    parser.add_argument(
        "--output", type=Path, default=Path("outputs/demo"), help="folder for the model and the pictures"
    )
    parser.add_argument("--max-steps", type=positive, help="training steps, if not what fits the data")
    return parser.parse_args(argv)


def build(settings: Settings, label_set) -> tuple[SetrForSemanticSegmentation, SetrImageProcessor]:
    """A small model with random weights, and sliding windows of its training crops."""
    config = SetrConfig(
        hidden_size=settings.hidden_size,
        num_hidden_layers=settings.num_hidden_layers,
        num_attention_heads=settings.hidden_size // 64,
        intermediate_size=4 * settings.hidden_size,
        image_size=settings.crop_size,
        **label_set.config_fields,
        # The fastest on CPUs for sequences as short as these.
        attn_implementation="eager",
    )
    processor = SetrImageProcessor(
        do_split_image=True,
        size={"shortest_edge": settings.shortest_edge},
        crop_size=dict(zip(("height", "width"), settings.crop_size)),
        stride=min(settings.crop_size) * 2 // 3,
        antialias=False,
    )
    return SetrForSemanticSegmentation(config), processor


def train(model, processor, train_data, settings: Settings, max_steps: int, output: Path):
    transform = training_transform(
        settings.crop_size,
        settings.scale_range,
        {"shortest_edge": settings.shortest_edge},
        processor.image_mean,
        processor.image_std,
        photometric_distortion=False,
    )
    arguments = TrainingArguments(
        output_dir=str(output),
        max_steps=max_steps,
        per_device_train_batch_size=settings.batch_size,
        learning_rate=settings.learning_rate,
        lr_scheduler_type="cosine",
        warmup_steps=max_steps // 20,
        weight_decay=0.05,
        bf16=True,
        use_cpu=not torch.cuda.is_available(),
        remove_unused_columns=False,
        logging_steps=50,
        save_strategy="no",
        report_to=[],
    )
    examples = training_examples(train_data, transform)
    trainer = Trainer(model, arguments, data_collator=collate, train_dataset=examples, processing_class=processor)
    trainer.train()
    trainer.save_model()


def pipeline_label_map(segmenter: ImageSegmentationPipeline, photo: Image.Image) -> np.ndarray:
    """The masks that the pipeline returns for a photo as one label map `(height, width)`."""
    label_map = np.zeros((photo.height, photo.width), dtype=np.uint8)
    for segment in segmenter(photo):
        label_map[np.asarray(segment["mask"]) > 0] = segmenter.model.config.label2id[segment["label"]]
    return label_map


def evaluate(segmenter, validation_data) -> tuple[dict, list]:
    """Scores over the held-out photos, and photo, truth and prediction of six of them."""
    matrix, samples = 0, []
    shown = set(np.linspace(0, len(validation_data) - 1, 6).round().astype(int).tolist())
    for index, sample in enumerate(tqdm(validation_data, unit="photo")):
        prediction = pipeline_label_map(segmenter, sample.photo)
        matrix = matrix + confusion_matrix(prediction, sample.label_map, len(validation_data.label_set.names))
        if index in shown:
            samples.append((sample.photo, sample.label_map, prediction))
    return segmentation_scores(matrix), samples


def main(argv=None) -> int:
    arguments = parse_arguments(argv)
    start = time.perf_counter()
    set_seed(0)
    if arguments.dataset is None:
        settings, train_data, validation_data = SCENES, make_scenes(600, 0), make_scenes(100, 10_000)
    else:
        settings = PHOTOGRAPHS
        train_data, validation_data = (load_data(arguments, split) for split in ("train", "validation"))
    label_set = train_data.label_set
    model, processor = build(settings, label_set)
    print(f"SETR-MLA with {model.num_parameters() / 1e6:.1f} M parameters on {len(train_data)} images")
    train(model, processor, train_data, settings, arguments.max_steps or settings.max_steps, arguments.output)

    segmenter = pipeline("image-segmentation", model=str(arguments.output))
    scores, samples = evaluate(segmenter, validation_data)
    for index, name in label_set.id2label.items():
        print(f"{name:>14}  IoU {scores['per_category_iou'][index]:.3f}")
    accuracy = scores["overall_accuracy"]
    print(
        f"mean IoU {scores['mean_iou']:.3f}, pixel accuracy {accuracy:.3f} on {len(validation_data)} held-out images"
    )
    sheet = arguments.output / "sheet.png"
    comparison_sheet(samples, class_colors(segmenter.model.config), label_set.id2label).save(sheet)
    print(f"model in {arguments.output}, pictures in {sheet}, {(time.perf_counter() - start) / 60:.1f} minutes")
    return 0


if __name__ == "__main__":
    sys.exit(run_job(main))
