"""Trains SETR by a published recipe, or fine-tunes it on your own data."""

import sys

from transformers import set_seed

from setr_hf.cli import run_job
from setr_hf.data.checks import checked_samples
from setr_hf.data.examples import collate, evaluation_examples, training_examples
from setr_hf.data.loading import load_segmentation_data
from setr_hf.training.description import describe
from setr_hf.training.options import parse_command
from setr_hf.training.output_folder import output_folder_lock
from setr_hf.training.setup import (
    build_processor,
    build_transform,
    check_length,
    check_precision,
    check_recipe_classes,
    checkpoint_to_resume,
    load_model,
    new_model,
)
from setr_hf.training.trainer import SetrTrainer


def load_data(job):
    """Training and validation data."""
    options = {
        "config": job.dataset_config,
        "revision": job.dataset_revision,
        "image_column": job.image_column,
        "annotation_column": job.annotation_column,
        "labels": job.labels,
        "streaming": job.streaming,
    }
    return [load_segmentation_data(job.dataset, split, **options) for split in ("train", "validation")]


def final_scores(trainer: SetrTrainer) -> dict[str, float]:
    """Scores of the model as it is saved: those of an evaluation after the last step, or of one made now."""
    last = next((log for log in reversed(trainer.state.log_history) if "eval_mean_iou" in log), {})
    if last.get("step") == trainer.state.global_step and not trainer.args.load_best_model_at_end:
        return {name: value for name, value in last.items() if name.startswith("eval_")}
    return trainer.evaluate()


def train(command, job, arguments, resume, tell) -> int:
    train_data, validation_data = load_data(job)
    label_set = train_data.label_set
    if command.recipe and not job.other_classes:
        check_recipe_classes(command.recipe, label_set)
    model, start = load_model(job, label_set) if job.model else new_model(command, label_set)
    tell(f"  {'start':<13} {start}")
    processor = build_processor(job, label_set)
    if job.streaming:
        # Each process reads the stream itself: accelerate's other way, one reader for all, loses samples.
        arguments.accelerator_config.dispatch_batches = False
    else:
        train_data = checked_samples(train_data, job.skip_bad_samples)
        validation_data = checked_samples(validation_data, job.skip_bad_samples)
        check_length(len(train_data), arguments)
        tell(f"  {'samples':<13} {len(train_data):,} for training, {len(validation_data):,} for validation")
    trainer = SetrTrainer(
        model=model,
        args=arguments,
        data_collator=collate,
        train_dataset=training_examples(
            train_data,
            build_transform(job, processor),
            arguments.seed,
            model.config.semantic_loss_ignore_index,
            job.skip_bad_samples,
        ),
        eval_dataset=evaluation_examples(validation_data, model.config.semantic_loss_ignore_index),
        processing_class=processor,
    )
    trainer.train(resume_from_checkpoint=resume)
    trainer.save_model()
    scores = final_scores(trainer)
    trainer.log_metrics("eval", scores)
    trainer.save_metrics("eval", scores)
    tell(f"model, scores and pictures of predictions: {arguments.output_dir}")
    return 0


def main(argv=None) -> int:
    command = parse_command(argv, __doc__)
    if command.options.dry_run:
        print(describe(command))
        return 0
    check_precision(command.options)
    job, arguments = command.to_dataclasses()
    resume = checkpoint_to_resume(arguments.resume_from_checkpoint)

    def tell(text: str):
        if arguments.process_index == 0:
            print(text, flush=True)

    tell(describe(command))
    set_seed(arguments.seed)
    with output_folder_lock(arguments.output_dir, resume=bool(resume)):
        return train(command, job, arguments, resume, tell)


if __name__ == "__main__":
    sys.exit(run_job(main))
