"""Shows what models find in photos, in a web browser."""

if __name__ == "__main__":  # Here, as the imports below take seconds, in which it can be interrupted.
    from setr_hf_cli import run_script

    raise SystemExit(run_script(__file__))

import sys
from argparse import ArgumentTypeError, Namespace

import torch

from setr_hf.app.segmenting import Limits, Segmenting, model_names
from setr_hf.cli import JobParser, positive, usable_device
from setr_hf.errors import SetrError
from setr_hf.inference.arguments import WINDOW_BATCH_SIZE
from setr_hf.repositories import check_model


def port(text: str) -> int:
    """The type of `--port`."""
    number = positive(text)
    if number > 65535:
        raise ArgumentTypeError(f"must be at most 65535, got {text!r}")
    return number


def parse_arguments(argv: list[str] | None) -> Namespace:
    device = "cuda" if torch.cuda.is_available() else "cpu"
    parser = JobParser((), description=__doc__)
    option = parser.add_argument
    option("models", nargs="+", metavar="MODEL", help="folders or Hub ids of SETR models, to choose from and compare")
    option("--host", default="127.0.0.1", help="address to serve at; 0.0.0.0 lets other computers in")
    option("--port", type=port, default=7860, help="port to serve at")
    option("--device", type=usable_device, default=device, help="where models compute: cpu, cuda, cuda:1, mps")
    option(
        "--window-batch-size", type=positive, default=WINDOW_BATCH_SIZE, help="windows that a model takes at a time"
    )
    option("--max-megabytes", type=positive, default=Limits.megabytes, help="largest file that is taken")
    option("--max-megapixels", type=positive, default=int(Limits.megapixels), help="largest photo that is taken")
    option("--max-seconds", type=positive, default=int(Limits.seconds), help="longest time for a photo and a model")
    option("--max-photos", type=positive, default=Limits.photos, help="most photos at once")
    option("--max-waiting", type=positive, default=Limits.waiting, help="most photos that wait for their turn")
    return parser.parse_args(argv)


def segmenting_of(options: Namespace) -> Segmenting:
    """The models and limits that the options name. Raises [`SetrError`] if one is not a model."""
    for path in options.models:
        check_model(path)
    limits = Limits(
        options.max_megabytes,
        options.max_megapixels,
        options.max_seconds,
        options.max_photos,
        options.max_waiting,
    )
    segmenting = Segmenting(model_names(options.models), limits, options.device, options.window_batch_size)
    # What cannot be loaded is named now, not to a visitor.
    for name in segmenting.models:
        segmenting.segmenter(name, "single")
    return segmenting


def main(argv: list[str] | None = None) -> int:
    options = parse_arguments(argv)
    try:
        from setr_hf.app.interface import build, launch_options
    except ImportError as error:
        raise SetrError(f'the app needs {error.name}: pip install "setr-hf[app]"') from error
    segmenting = segmenting_of(options)
    page = build(segmenting)
    print(f"http://{options.host}:{options.port} (Ctrl-C ends it)", file=sys.stderr)
    try:
        page.launch(
            server_name=options.host, server_port=options.port, quiet=True, **launch_options(segmenting.limits)
        )
    except OSError as error:
        raise SetrError(f"port {options.port} of {options.host} cannot be served: {error}") from error
    return 0
