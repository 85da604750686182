"""Evaluates a model by the paper's protocol, with a table, pictures and results.json."""

import os
import sys
from argparse import Namespace
from pathlib import Path

from setr_hf.cards.model_card import eval_results, update_card
from setr_hf.cli import JobParser, positive, run_job
from setr_hf.data.arguments import SplitArguments, dataset_name, load_data
from setr_hf.data.rows import Sample
from setr_hf.errors import SetrError
from setr_hf.evaluation.records import compute_records, sample_record, start_processes
from setr_hf.evaluation.results import print_scores, summarize, write_report, write_worst_images
from setr_hf.evaluation.segmenter import load_segmenter
from setr_hf.evaluation.settings import evaluation_settings
from setr_hf.evaluation.submission import server_ids, submission_file, write_submission
from setr_hf.repositories import check_source


def parse_arguments(argv: list[str] | None = None) -> Namespace:
    parser = JobParser(SplitArguments, description=__doc__)
    option = parser.add_argument
    option("--model", required=True, help="folder or Hub id of a model")
    option(
        "--protocol", choices=("single", "multi"), default="single", help="one scale, or several with mirror images"
    )
    option(
        "--scales",
        nargs="+",
        type=float,
        metavar="RATIO",
        help="ratios for multi, if not those the model was tested at",
    )
    option("--limit", type=positive, help="only the first images")
    option("--output", type=Path, help="folder for results, resumed if it exists")
    option("--batch-size", type=positive, default=1, help="photos at a time")
    option("--window-batch-size", type=positive, default=32, help="windows that the model takes at a time")
    option("--dtype", choices=("float32", "bfloat16", "float16"), default="float32", help="the model computes in")
    option("--threads", type=positive, default=os.cpu_count(), help="CPU threads of each process; changes rounding")
    option("--submit", action="store_true", help="write label maps for the server of the data set")
    option("--update-card", action="store_true", help="add the result to the model's card")
    arguments = parser.parse_args(argv)
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
    check_source(arguments.model, "model")
    state = start_processes(arguments.threads)
    data = load_data(arguments, arguments.split)
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
