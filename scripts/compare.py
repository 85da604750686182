"""Compares two models on the same images, and tests whether their difference may be chance."""

import os
import sys
from argparse import Namespace
from pathlib import Path

from setr_hf.cli import JobParser, positive, run_job
from setr_hf.data.arguments import SplitArguments, dataset_name, load_data
from setr_hf.data.rows import Sample
from setr_hf.evaluation.comparison import compare_records, comparison_record, print_comparison
from setr_hf.evaluation.records import compute_records, start_processes, write_json
from setr_hf.evaluation.segmenter import load_segmenter
from setr_hf.evaluation.settings import evaluation_settings
from setr_hf.repositories import check_source
from setr_hf.tables import print_options


def parse_arguments(argv: list[str] | None = None) -> Namespace:
    parser = JobParser(SplitArguments, description=__doc__)
    option = parser.add_argument
    for name in ("A", "B"):
        option("models", action="append", metavar=name, help="folder or Hub id of a model")
    option(
        "--protocol", choices=("single", "multi"), default="single", help="one scale, or several with mirror images"
    )
    option("--limit", type=positive, help="only the first images")
    option("--output", type=Path, help="folder for comparison.json, resumed if it exists")
    option("--window-batch-size", type=positive, default=32, help="windows that the models take at a time")
    option("--dtype", choices=("float32", "bfloat16", "float16"), default="float32", help="the models compute in")
    option("--threads", type=positive, default=os.cpu_count(), help="CPU threads of each process; changes rounding")
    arguments = parser.parse_args(argv)
    if arguments.output is None:
        names = "_".join(Path(model).name for model in arguments.models)
        run = f"{Path(dataset_name(arguments.dataset)).name}_{arguments.split}_{arguments.protocol}"
        arguments.output = Path("outputs") / "compare" / names / run
    return arguments


def main(argv: list[str] | None = None) -> int:
    arguments = parse_arguments(argv)
    for model in arguments.models:
        check_source(model, "model")
    state = start_processes(arguments.threads)
    data = load_data(arguments, arguments.split)
    first, second = (
        load_segmenter(
            path,
            data.label_set,
            arguments.protocol,
            None,
            arguments.window_batch_size,
            arguments.dtype,
            state.device,
        )
        for path in arguments.models
    )
    settings = {"first": evaluation_settings(first, data), "second": evaluation_settings(second, data)}

    def work(samples: list[Sample]) -> list[dict]:
        photos = [sample.photo for sample in samples]
        triples = zip(samples, first(photos), second(photos))
        return [comparison_record(*triple, len(data.label_set.names)) for triple in triples]

    records = compute_records(arguments.output / "records", settings, data, work, arguments.limit)
    state.destroy_process_group()
    if not state.is_main_process:
        return 0
    comparison = compare_records(records, data.label_set)
    models = dict(zip(("A", "B"), arguments.models))
    write_json(arguments.output / "comparison.json", {"models": models, "settings": settings, **comparison})
    print_options(models.items())
    print_comparison(comparison)
    print(f"results: {arguments.output}")
    return 0


if __name__ == "__main__":
    sys.exit(run_job(main))
