"""Verifies a published model: its files, weights, code and card and, with the data, the figures on the card."""

if __name__ == "__main__":  # Here, as the imports below take seconds, in which it can be interrupted.
    from setr_hf_cli import run_script

    raise SystemExit(run_script(__file__))

from argparse import Namespace
from dataclasses import dataclass
from pathlib import Path

from setr_hf.cli import JobParser
from setr_hf.data.arguments import HoldOutArguments, load_data, option
from setr_hf.evaluation.arguments import EvaluationArguments
from setr_hf.evaluation.records import start_processes
from setr_hf.hub.verify import check_figures, local_copy, verify


@dataclass
class FigureArguments(HoldOutArguments):
    """The data set whose figures are computed again."""

    split: str = option("validation", "split of the data set")


def parse_arguments(argv: list[str] | None) -> tuple[Namespace, EvaluationArguments]:
    parser = JobParser(FigureArguments, description=__doc__, epilog="Exit status: 0 if all is well, 1 if not.")
    parser.add_argument("source", metavar="MODEL", help="folder or Hub id of a published model")
    parser.add_argument("--revision", help="branch, tag or commit on the Hub")
    parser.add_argument("--public-key", type=Path, metavar="KEY", help="of whoever signed the model (PEM)")
    return parser.parse_args(argv), EvaluationArguments()


def main(argv: list[str] | None = None) -> int:
    arguments, evaluation = parse_arguments(argv)
    with local_copy(arguments.source, arguments.revision) as folder:
        checks = verify(folder, arguments.public_key)
        if arguments.dataset and not checks["weights"] and not checks["card"]:
            start_processes(evaluation.threads)
            data = load_data(arguments, arguments.split)
            checks["figures"] = check_figures(folder, data, arguments.split, evaluation)
    for name, findings in checks.items():
        print(f"{name:<10} {'differs' if findings else 'as it should be'}")
        for finding in findings:
            print(f"  {finding}")
    if arguments.dataset and "figures" not in checks:
        print(f"{'figures':<10} not computed: mend the rest first")
    return 1 if any(checks.values()) else 0
