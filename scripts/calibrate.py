"""Fits the temperature at which a model is as sure as it is often right, and saves it with the model."""

if __name__ == "__main__":  # Here, as the imports below take seconds, in which it can be interrupted.
    from setr_hf_cli import run_script

    raise SystemExit(run_script(__file__))

from pathlib import Path

from setr_hf.cli import JobParser
from setr_hf.data.arguments import SplitArguments, load_data
from setr_hf.errors import SetrError
from setr_hf.evaluation.arguments import SampleArguments
from setr_hf.evaluation.records import start_processes
from setr_hf.evaluation.segmenter import load_segmenter
from setr_hf.evaluation.temperature import (
    calibration_error,
    fit_temperature,
    labelled_scores,
    negative_log_likelihood,
    save_temperature,
)
from setr_hf.tables import percent, print_table
from setr_hf_ending import say_when_interrupted


def parse_arguments(argv: list[str] | None) -> tuple[str, SplitArguments, SampleArguments]:
    parser = JobParser((SplitArguments, SampleArguments), description=__doc__)
    parser.add_argument("model", metavar="MODEL", help="folder of a model")
    options = parser.parse_args(argv)
    return options.model, *parser.parse_dict(vars(options), allow_extra_keys=True)


def main(argv: list[str] | None = None) -> int:
    model, source, arguments = parse_arguments(argv)
    if not Path(model).is_dir():
        raise SetrError(
            f"{model} is not a folder; `hf download ID --local-dir FOLDER` makes one of a model on the Hub"
        )
    state = start_processes(arguments.threads)
    if state.num_processes > 1:
        raise SetrError("calibrate runs as one process: start it without a launcher")
    data = load_data(source, source.split)
    if not data.has_annotations:
        raise SetrError(f"{source.dataset} has no annotations to calibrate with")
    segmenter = load_segmenter(model, data.label_set, arguments, state.device)
    data = data.with_bands(segmenter.processor.num_bands)
    say_when_interrupted(lambda: f"{model} is as it was")
    pixels = labelled_scores(segmenter, data, arguments.limit, arguments.skip_bad_samples)
    before, after = segmenter.processor.temperature, fit_temperature(pixels)
    rows = (
        (when, f"{t:.4f}", f"{negative_log_likelihood(pixels, t):.4f}", percent(calibration_error(pixels, t)))
        for when, t in (("before", before), ("after", after))
    )
    print_table(("", "temperature", "negative log-likelihood", "ECE"), rows)
    print(f"from {len(pixels.labels):,} of {pixels.weights.sum():,.0f} labelled pixels")
    save_temperature(Path(model), after)
    print(f"{model} has the temperature {after}, with which its label maps are as before")
    return 0
