"""Trains SETR by a published recipe, or fine-tunes it on your own data."""

if __name__ == "__main__":  # Here, as the imports below take seconds, in which it can be interrupted.
    from setr_hf_cli import run_script

    raise SystemExit(run_script(__file__))

import sys
from collections.abc import Sequence

from transformers import set_seed

from setr_hf.checkpoints.encoder import check_encoder
from setr_hf.cli import JobParser
from setr_hf.data.arguments import load_data
from setr_hf.data.rows import SegmentationData
from setr_hf.repositories import check_model
from setr_hf.tables import print_options
from setr_hf.training.description import describe
from setr_hf.training.options import ARGUMENTS, HIDDEN, RANDOM_WEIGHTS, JobArguments, parse_command
from setr_hf.training.output_folder import how_to_resume, last_complete_checkpoint, note_command, output_folder_lock
from setr_hf.training.setup import check_precision, checkpoint_to_resume, make_trainer, planned_rows
from setr_hf.training.trainer import SetrTrainer
from setr_hf_ending import say_when_interrupted


def final_scores(trainer: SetrTrainer) -> dict[str, float]:
    """Scores of the model as it is saved: of an evaluation after the last step, if there was one, or of a new one."""
    last: dict = next((log for log in reversed(trainer.state.log_history) if "eval_mean_iou" in log), {})
    if last.get("step") == trainer.state.global_step and not trainer.args.load_best_model_at_end:
        return {name: value for name, value in last.items() if name.startswith("eval_")}
    return trainer.evaluate()


def load_splits(job: JobArguments) -> tuple[SegmentationData, SegmentationData | None]:
    """Training and validation samples; none of the latter if the options ask for none."""
    train_data = load_data(job, "train", job.streaming)
    return train_data, None if job.validation_fraction == 0 else load_data(job, "validation", job.streaming)


def main(argv: Sequence[str] | None = None) -> int:
    command = parse_command(argv, JobParser(ARGUMENTS, hidden=HIDDEN, description=__doc__))
    summary = describe(command)
    if command.options.dry_run:
        print_options([*summary, *planned_rows(command)])
        return 0
    check_precision(command.options)
    job, arguments = command.to_dataclasses()
    resume = checkpoint_to_resume(arguments.resume_from_checkpoint)
    if job.model:
        check_model(job.model)
    elif job.encoder not in (None, RANDOM_WEIGHTS):
        check_encoder(job.encoder)
        if job.stem:
            check_model(job.stem)
    is_main_process = arguments.process_index == 0
    if is_main_process:
        print_options(summary)
    set_seed(arguments.seed)
    with output_folder_lock(arguments.output_dir, resume=bool(resume)):
        say_when_interrupted(lambda: how_to_resume(arguments.output_dir))
        train_data, validation_data = load_splits(job)
        checkpoint = last_complete_checkpoint(arguments.output_dir) if resume is True else resume or None
        trainer, facts = make_trainer(command, job, arguments, train_data, validation_data, checkpoint)
        if is_main_process:
            print_options(facts)
            note_command(arguments.output_dir, sys.argv[1:] if argv is None else argv)
        trainer.train(resume_from_checkpoint=resume)
        trainer.save_model()
        if validation_data is not None:
            scores = final_scores(trainer)
            trainer.log_metrics("eval", scores)
            trainer.save_metrics("eval", scores)
        # Now its scores are known.
        if arguments.push_to_hub:
            trainer.push_to_hub(commit_message="Evaluation results")
        else:
            trainer.create_model_card()
    if is_main_process:
        print(f"model, card, scores and pictures of predictions: {arguments.output_dir}")
    return 0
