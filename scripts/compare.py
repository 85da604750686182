"""Compares two models on the same images, and tests whether their difference may be chance."""

if __name__ == "__main__":  # Here, as the imports below take seconds, in which it can be interrupted.
    from setr_hf_cli import run_script

    raise SystemExit(run_script(__file__))


from setr_hf.cli import JobParser
from setr_hf.data.arguments import SplitArguments, load_data
from setr_hf.errors import SetrError
from setr_hf.evaluation.arguments import EvaluationArguments
from setr_hf.evaluation.comparison import (
    check_comparison_record,
    compare_records,
    comparison_record,
    print_comparison,
)
from setr_hf.evaluation.records import compute_records, start_processes
from setr_hf.evaluation.segmenter import load_segmenter
from setr_hf.evaluation.settings import evaluation_settings
from setr_hf.files import write_json
from setr_hf.repositories import check_model
from setr_hf.tables import print_options
from setr_hf_ending import say_when_interrupted


def parse_arguments(argv: list[str] | None) -> tuple[list[str], SplitArguments, EvaluationArguments]:
    parser = JobParser((SplitArguments, EvaluationArguments), description=__doc__)
    for name in ("A", "B"):
        parser.add_argument("models", action="append", metavar=name, help="folder or Hub id of a model")
    options = parser.parse_args(argv)
    return options.models, *parser.parse_dict(vars(options), allow_extra_keys=True)


def main(argv: list[str] | None = None) -> int:
    paths, source, evaluation = parse_arguments(argv)
    for path in paths:
        check_model(path)
    state = start_processes(evaluation.threads)
    data = load_data(source, source.split)
    first, second = (load_segmenter(path, data.label_set, evaluation, state.device) for path in paths)
    if first.processor.num_bands != second.processor.num_bands:
        raise SetrError(f"{paths[0]} and {paths[1]} take photos of different bands: evaluate each by itself")
    data = data.with_bands(first.processor.num_bands)
    output = evaluation.output_folder("compare", paths, source)
    settings = {"first": evaluation_settings(first, data), "second": evaluation_settings(second, data)}

    say_when_interrupted(lambda: "the same command goes on")
    records = compute_records(
        output / "records",
        settings,
        data,
        [first, second],
        comparison_record,
        check_comparison_record,
        limit=evaluation.limit,
        skip_bad_samples=evaluation.skip_bad_samples,
    )
    state.destroy_process_group()
    if not state.is_main_process:
        return 0
    comparison = compare_records(records, data.label_set, records.bad_samples)
    models = dict(zip(("A", "B"), paths))
    write_json(output / "comparison.json", {"models": models, "settings": settings, **comparison})
    print_options(models.items())
    print_comparison(comparison)
    print(f"results: {output}")
    return 0
