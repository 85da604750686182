"""Compares two models on the same images: classes, agreement, and whether the difference of mIoU may be chance."""

import argparse
import json
import os
import sys
from pathlib import Path

import torch

from setr_hf.cli import run_job
from setr_hf.data.arguments import add_data_arguments, dataset_name, load_data
from setr_hf.data.public_datasets import published_scales
from setr_hf.evaluation.comparison import compare_records, comparison_record, comparison_table
from setr_hf.evaluation.records import compute_records, start_processes, write_text
from setr_hf.evaluation.results import evaluation_settings, load_for_evaluation
from setr_hf.inference.sliding_windows import check_multi_scale, segment


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


def main(argv=None) -> int:
    arguments = parse_arguments(argv)
    state = start_processes()
    if state.device.type == "cpu":
        torch.set_num_threads(arguments.threads)
    data = load_data(arguments)
    contestants, settings = [], {}
    for which, path in zip(("first", "second"), arguments.models):
        model, processor = load_for_evaluation(path, data.label_set, arguments.dtype, state.device)
        config, is_multi = model.config, arguments.protocol == "multi"
        scales = published_scales(config.dataset, config.decoder_type) if is_multi else None
        if scales:
            check_multi_scale(processor, scales)
        contestants.append((model, processor, scales))
        settings[which] = evaluation_settings(model, processor, data, scales, 1, arguments.window_batch_size)

    def work(samples):
        photos = [sample.photo for sample in samples]
        first, second = (
            segment(model, processor, photos, scales, arguments.window_batch_size)
            for model, processor, scales in contestants
        )
        return [comparison_record(*row, len(data.label_set.names)) for row in zip(samples, first, second)]

    records = compute_records(arguments.output / "records", settings, data, work, arguments.limit)
    state.destroy_process_group()
    if not state.is_main_process:
        return 0
    comparison = compare_records(records, data.label_set)
    models = dict(zip(("A", "B"), arguments.models))
    write_text(
        arguments.output / "comparison.json",
        json.dumps({"models": models, "settings": settings, **comparison}, indent=2, ensure_ascii=False),
    )
    print(f"A: {arguments.models[0]}\nB: {arguments.models[1]}")
    print(comparison_table(comparison))
    print(f"results: {arguments.output}")
    return 0


if __name__ == "__main__":
    sys.exit(run_job(main))
