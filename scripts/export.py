"""Exports a model to ONNX, OpenVINO or torch.export, checked against the original."""

if __name__ == "__main__":  # Here, as the imports below take seconds, in which it can be interrupted.
    from setr_hf_cli import run_script

    raise SystemExit(run_script(__file__))

from argparse import Namespace
from pathlib import Path

from setr_hf.cli import JobParser
from setr_hf.export.formats import FORMATS
from setr_hf.export.writing import export_model
from setr_hf.repositories import check_model
from setr_hf.tables import print_options


def parse_arguments(argv: list[str] | None) -> Namespace:
    parser = JobParser(description=__doc__)
    parser.add_argument("model", metavar="MODEL", help="folder or Hub id of a SETR model")
    parser.add_argument("output", metavar="OUT", type=Path, help="folder to write")
    parser.add_argument("--format", choices=list(FORMATS), default="onnx", help="what to write")
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> int:
    options = parse_arguments(argv)
    check_model(options.model)
    report = export_model(options.model, options.output, options.format)
    print_options([("written to", options.output), ("size", f"{report.megabytes:,.1f} MB")])
    return 0
