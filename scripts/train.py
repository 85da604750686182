"""Fine-tunes SETR on a folder of images and annotations."""

import json
import sys
from dataclasses import dataclass, field

from transformers import AutoImageProcessor, AutoModelForSemanticSegmentation, HfArgumentParser, TrainingArguments

from setr_hf import SetrConfig, SetrForSemanticSegmentation, SetrImageProcessor
from setr_hf.cli import run_job
from setr_hf.data import load_segmentation_folder
from setr_hf.encoder_starts import load_encoder
from setr_hf.trainer import SetrTrainer
from setr_hf.training import collate, evaluation_examples, training_examples
from setr_hf.transforms import training_transform


@dataclass
class JobArguments:
    data: str = field(
        metadata={"help": "folder images/{train,val} + annotations/{train,val} + labels.json, or ADE20K"}
    )
    model: str | None = field(default=None, metadata={"help": "folder or Hub id of a SETR model to start from"})
    config: str = field(
        default="{}", metadata={"help": 'without --model: SetrConfig fields as JSON, such as {"decoder_type": "pup"}'}
    )
    encoder: str | None = field(
        default=None, metadata={"help": "without --model: a ViT or DeiT to start the encoder from (id, name or file)"}
    )
    crop_size: int = field(default=512, metadata={"help": "side in pixels of training crops and test windows"})
    shortest_edge: int | None = field(
        default=None, metadata={"help": "resize images to this short side; default: none"}
    )
    min_scale: float = field(default=0.5, metadata={"help": "least ratio of random scaling"})
    max_scale: float = field(default=2.0, metadata={"help": "largest ratio of random scaling"})


def build_processor(job: JobArguments) -> SetrImageProcessor:
    """Sliding windows of the crop's size, overlapping by a third, as in the paper's test protocol."""
    resizing = {"size": {"shortest_edge": job.shortest_edge}} if job.shortest_edge else {"do_resize": False}
    return SetrImageProcessor(
        do_split_image=True, crop_size=job.crop_size, stride=job.crop_size * 2 // 3, antialias=False, **resizing
    )


def build_model(job: JobArguments, label_set) -> SetrForSemanticSegmentation:
    """A new model, or a trained one with a classifier for these classes (a new one where the number differs)."""
    labels = {
        "id2label": label_set.id2label,
        "label2id": {name: index for index, name in label_set.id2label.items()},
        "palette": label_set.palette,
    }
    if job.model:
        return AutoModelForSemanticSegmentation.from_pretrained(job.model, ignore_mismatched_sizes=True, **labels)
    fields = {"image_size": job.crop_size, **json.loads(job.config)}
    model = SetrForSemanticSegmentation(SetrConfig(**fields, **labels))
    if job.encoder:
        print(load_encoder(model, job.encoder))
    return model


def main() -> int:
    parser = HfArgumentParser((JobArguments, TrainingArguments), description=__doc__)
    job, arguments = parser.parse_args_into_dataclasses()
    arguments.remove_unused_columns = False
    train_set, label_set = load_segmentation_folder(job.data, "train")
    validation_set, _ = load_segmentation_folder(job.data, "validation")
    model = build_model(job, label_set)
    processor = AutoImageProcessor.from_pretrained(job.model) if job.model else build_processor(job)
    processor.do_reduce_labels = label_set.is_reduced
    transform = training_transform(
        (job.crop_size, job.crop_size),
        (job.min_scale, job.max_scale),
        job.shortest_edge,
        processor.image_mean,
        processor.image_std,
    )
    trainer = SetrTrainer(
        model=model,
        args=arguments,
        data_collator=collate,
        train_dataset=training_examples(train_set, label_set, transform),
        eval_dataset=evaluation_examples(validation_set, label_set),
        processing_class=processor,
    )
    trainer.train(resume_from_checkpoint=arguments.resume_from_checkpoint)
    trainer.save_model()
    trainer.log_metrics("eval", trainer.evaluate())
    print(f"saved to {arguments.output_dir}")
    return 0


if __name__ == "__main__":
    sys.exit(run_job(main))
