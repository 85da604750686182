"""Compares two models on the same images: classes, agreement, and whether the difference of mIoU may be chance."""

import argparse
import os
import sys
from pathlib import Path

from setr_hf.cli import run_job
from setr_hf.data.arguments import add_data_arguments, dataset_name, load_data
from setr_hf.data.rows import Sample
from setr_hf.evaluation.comparison import compare_records, comparison_record, print_comparison
from setr_hf.evaluation.records import compute_records, start_processes, write_json
from setr_hf.evaluation.segmenter import load_segmenter
from setr_hf.evaluation.settings import evaluation_settings
from setr_hf.tables import print_options


def parse_arguments(argv=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("models", nargs=2, metavar=("A", "B"), help="folders or Hub ids of two models")
    add_data_arguments(parser)
    parser.add_argument("--protocol", choices=("single", "multi"), default="single")
    parser.add_argument("--limit", type=int, help="only the first images")
    parser.add_argument("--output", type=Path, help="folder for comparison.json; one that is there is gone on with")
    parser.add_argument("--window-batch-size", type=int, default=32, help="windows the models take at a time")
    parser.add_argument("--dtype", choices=("float32", "bfloat16", "float16"), default="float32")
    parser.add_argument("--threads", type=int, default=os.cpu_count(), help="CPU threads of each process")
    arguments = parser.parse_args(argv)
    for name in ("limit", "window_batch_size", "threads"):
        value = getattr(arguments, name)
        if value is not None and value < 1:
            parser.error(f"--{name.replace('_', '-')} must be at least 1, got {value}")
    if arguments.output is None:
        names = "_".join(Path(model).name for model in arguments.models)
        run = f"{Path(dataset_name(arguments.dataset)).name}_{arguments.split}_{arguments.protocol}"
        arguments.output = Path("outputs") / "compare" / names / run
    return arguments


def main(argv: list[str] | None = None) -> int:
    arguments = parse_arguments(argv)
    state = start_processes(arguments.threads)
    data = load_data(arguments)
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
