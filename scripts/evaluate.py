"""Evaluates a model by the paper's protocol: mean IoU of a data set, with a table, pictures and results.json."""

import argparse
import os
import sys
from pathlib import Path

from setr_hf.cards.model_card import eval_results, update_card
from setr_hf.cli import run_job
from setr_hf.data.arguments import add_data_arguments, dataset_name, load_data
from setr_hf.data.rows import Sample
from setr_hf.errors import SetrError
from setr_hf.evaluation.records import compute_records, sample_record, start_processes
from setr_hf.evaluation.results import print_scores, summarize, write_report, write_worst_images
from setr_hf.evaluation.segmenter import load_segmenter
from setr_hf.evaluation.settings import evaluation_settings
from setr_hf.evaluation.submission import server_ids, submission_file, write_submission


def parse_arguments(argv=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--model", required=True, help="folder or Hub id of a model")
    add_data_arguments(parser)
    parser.add_argument(
        "--protocol", choices=("single", "multi"), default="single", help="one scale, or several with mirror images"
    )
    parser.add_argument(
        "--scales", nargs="+", type=float, metavar="RATIO", help="ratios for multi; the published ones by default"
    )
    parser.add_argument("--limit", type=int, help="only the first images")
    parser.add_argument("--output", type=Path, help="folder for results; one that is there is gone on with")
    parser.add_argument("--batch-size", type=int, default=1, help="photographs at a time")
    parser.add_argument("--window-batch-size", type=int, default=32, help="windows the model takes at a time")
    parser.add_argument("--dtype", choices=("float32", "bfloat16", "float16"), default="float32")
    parser.add_argument(
        "--threads",
        type=int,
        default=os.cpu_count(),
        help="CPU threads of each process; other numbers, other last bits",
    )
    parser.add_argument("--submit", action="store_true", help="write label maps for the server of the data set")
    parser.add_argument("--update-card", action="store_true", help="add the result to the model's card")
    arguments = parser.parse_args(argv)
    for name in ("limit", "batch_size", "window_batch_size", "threads"):
        value = getattr(arguments, name)
        if value is not None and value < 1:
            parser.error(f"--{name.replace('_', '-')} must be at least 1, got {value}")
    if arguments.scales and arguments.protocol == "single":
        parser.error("--scales belongs to --protocol multi")
    if arguments.update_card and arguments.limit:
        parser.error("--update-card takes results of a whole split only: leave out --limit")
    if arguments.output is None:
        run = f"{Path(dataset_name(arguments.dataset)).name}_{arguments.split}_{arguments.protocol}"
        arguments.output = Path("outputs") / "evaluate" / Path(arguments.model).name / run
    return arguments


def main(argv: list[str] | None = None) -> int:
    arguments = parse_arguments(argv)
    state = start_processes(arguments.threads)
    data = load_data(arguments)
    if not data.has_annotations and not arguments.submit:
        raise SetrError(f"{arguments.dataset} has no annotations to evaluate against: pass --submit for label maps")
    segmenter = load_segmenter(
        arguments.model,
        data.label_set,
        arguments.protocol,
        arguments.scales,
        arguments.window_batch_size,
        arguments.dtype,
        state.device,
    )
    ids = server_ids(data.label_set) if arguments.submit else None
    submission = arguments.output / "submission"

    def work(samples: list[Sample]) -> list[dict]:
        predictions = segmenter([sample.photo for sample in samples])
        if ids is not None:
            for sample, prediction in zip(samples, predictions):
                write_submission(submission_file(submission, sample.name), ids[prediction.numpy()])
        return [sample_record(*pair, len(data.label_set.names)) for pair in zip(samples, predictions)]

    settings = evaluation_settings(segmenter, data, arguments.batch_size)
    records = compute_records(
        arguments.output / "records",
        settings,
        data,
        work,
        arguments.limit,
        arguments.batch_size,
        is_missing=lambda name: arguments.submit and not submission_file(submission, name).exists(),
    )
    state.destroy_process_group()
    if not state.is_main_process:
        return 0

    if arguments.submit:
        print(f"label maps for the server: {submission}")
    if not data.has_annotations:
        return 0
    summary, matrix = summarize(records, data.label_set)
    write_report(arguments.output, summary, matrix, settings)
    write_worst_images(arguments.output / "worst.png", summary, data, segmenter)
    if arguments.update_card:
        results = eval_results(summary, dataset_name(arguments.dataset), arguments.split, segmenter.scales)
        update_card(arguments.model, results)
    print_scores(summary)
    print(f"results: {arguments.output}")
    return 0


if __name__ == "__main__":
    sys.exit(run_job(main))
