"""Evaluates a model by the paper's protocol, with a table, pictures and results.json."""

if __name__ == "__main__":  # Here, as the imports below take seconds, in which it can be interrupted.
    from setr_hf_cli import run_script

    raise SystemExit(run_script(__file__))

from argparse import Namespace

import torch
from PIL import Image

from setr_hf.cards.benchmarks import find_benchmark
from setr_hf.cards.results import eval_results, update_card
from setr_hf.cli import JobParser, positive
from setr_hf.data.arguments import SplitArguments, dataset_name, load_data
from setr_hf.data.rows import Sample
from setr_hf.errors import SetrError
from setr_hf.evaluation.arguments import EvaluationArguments
from setr_hf.evaluation.records import compute_records, start_processes
from setr_hf.evaluation.reliability import calibration_record, check_calibration_record, summarize_calibration
from setr_hf.evaluation.results import print_scores, summarize, write_report, write_worst_images
from setr_hf.evaluation.segmenter import load_segmenter
from setr_hf.evaluation.settings import evaluation_settings
from setr_hf.evaluation.submission import server_ids, submission_files
from setr_hf.files import whole_file
from setr_hf.repositories import check_model
from setr_hf_ending import say_when_interrupted


def parse_arguments(argv: list[str] | None) -> tuple[Namespace, SplitArguments, EvaluationArguments]:
    parser = JobParser((SplitArguments, EvaluationArguments), description=__doc__)
    option = parser.add_argument
    option("--model", required=True, help="folder or Hub id of a model")
    option("--batch-size", type=positive, default=1, help="photos at a time")
    option("--submit", action="store_true", help="write label maps for the server of the data set")
    option("--update-card", action="store_true", help="add the result to the model's card")
    options = parser.parse_args(argv)
    if options.update_card and (options.limit or options.skip_bad_samples):
        parser.error("--update-card takes results of a whole split only: leave out --limit and --skip-bad-samples")
    if options.update_card and options.quantization:
        parser.error("--update-card takes results of the weights as they are saved: leave out --quantization")
    return options, *parser.parse_dict(vars(options), allow_extra_keys=True)


def main(argv: list[str] | None = None) -> int:
    options, source, evaluation = parse_arguments(argv)
    check_model(options.model)
    state = start_processes(evaluation.threads)
    data = load_data(source, source.split)
    if not data.has_annotations and not options.submit:
        raise SetrError(f"{source.dataset} has no annotations to evaluate against: pass --submit for label maps")
    segmenter = load_segmenter(options.model, data.label_set, evaluation, state.device)
    data = data.with_bands(segmenter.processor.num_bands)
    output = evaluation.output_folder("evaluate", [options.model], source)
    ids = server_ids(data.label_set) if options.submit else None
    submission = output / "submission"
    files = submission_files(submission, data.rows["name"]) if options.submit else {}

    def record(sample: Sample, prediction: tuple[torch.Tensor, torch.Tensor], num_labels: int) -> dict:
        if ids is not None:
            with whole_file(files[sample.name]) as unfinished:
                Image.fromarray(ids[prediction[0].numpy()]).save(unfinished)
        return calibration_record(sample, prediction, num_labels)

    def is_missing(name: str) -> bool:
        return options.submit and not files[name].exists()

    # On which the confidence depends, but no label map.
    temperature = segmenter.processor.temperature
    settings = {**evaluation_settings(segmenter, data, options.batch_size), "temperature": temperature}
    say_when_interrupted(lambda: "the same command goes on")
    records = compute_records(
        output / "records",
        settings,
        data,
        [segmenter.with_confidence],
        record,
        check_calibration_record,
        limit=evaluation.limit,
        batch_size=options.batch_size,
        is_missing=is_missing,
        skip_bad_samples=evaluation.skip_bad_samples,
    )
    state.destroy_process_group()
    if not state.is_main_process:
        return 0

    if options.submit:
        skipped = f", without {len(records.bad_samples)} bad samples" if records.bad_samples else ""
        print(f"label maps for the server: {submission}{skipped}")
    if not data.has_annotations:
        return 0
    summary, matrix = summarize(records, data.label_set, records.bad_samples)
    summary |= summarize_calibration(records)
    write_report(output, summary, matrix, settings)
    write_worst_images(output / "worst.png", summary, data, segmenter)
    if options.update_card:
        benchmark = find_benchmark(data.label_set.dataset, source.split, len(data))
        dataset = benchmark or dataset_name(source.dataset)
        results = eval_results(summary, dataset, source.split, segmenter.scales, source.validation_fraction)
        update_card(options.model, results)
    print_scores(summary)
    print(f"results: {output}")
    return 0
