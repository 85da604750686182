"""Examines a data set or a model, or the installation, and says what is wrong and what mends it."""

if __name__ == "__main__":  # Here, as the imports below take seconds, in which it can be interrupted.
    from setr_hf_cli import run_script

    raise SystemExit(run_script(__file__))

import json
from argparse import Namespace
from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from importlib.metadata import version
from pathlib import Path
from typing import Any

from setr_hf.cli import JobParser
from setr_hf.data.arguments import DataArguments
from setr_hf.doctor.data_report import DataReport, examine_data, print_data_report
from setr_hf.doctor.findings import Finding, exit_status, print_findings, sorted_by_severity
from setr_hf.doctor.installation import installation, missing_packages, print_installation
from setr_hf.doctor.model_report import examine_model, print_model
from setr_hf.doctor.sheet import draw_sheet
from setr_hf.doctor.sources import is_model
from setr_hf.errors import SetrError
from setr_hf.files import check_is_new, whole_folder, write_json


EPILOG = (
    "Exit status: 0 if nothing is worse than a note, 1 if there are errors or warnings, 2 if nothing was examined."
)


@dataclass
class SourceArguments(DataArguments):
    """As [`DataArguments`], of a data set that has been named."""

    dataset: str | None = field(default=None, init=False)


def parse_arguments(argv: Sequence[str] | None) -> Namespace:
    parser = JobParser(SourceArguments, description=__doc__, epilog=EPILOG)
    option = parser.add_argument
    option("source", nargs="?", metavar="SOURCE", help="a data set or a model: its folder, or its id on the Hub")
    option("--json", action="store_true", help="print one JSON object instead")
    option("--output", type=Path, help="new folder for report.json and, of a data set, a sheet of pictures")
    arguments = parser.parse_args(argv)
    given = [name for name in options_of_data() if getattr(arguments, name) is not None]
    if arguments.source is None and given:
        parser.error(f"--{given[0].replace('_', '-')} belongs to a data set: name it as SOURCE")
    return arguments


def options_of_data() -> list[str]:
    return [option.name for option in fields(SourceArguments) if option.init]


def examine(arguments: Namespace) -> tuple[dict[str, Any], list[Finding], DataReport | None]:
    """What is known of the source, for JSON, what is wrong with it and, if it is a data set, all that was seen."""
    given = {name: getattr(arguments, name) for name in options_of_data()}
    if arguments.source is not None and not is_model(arguments.source):
        data = DataArguments(dataset=arguments.source, **given)
        report = examine_data(data)
        return {"kind": "data set", **report.to_dict()}, report.findings, report
    for name, value in given.items():
        if value is not None:
            raise SetrError(f"{arguments.source} is a model, which has no --{name.replace('_', '-')}")
    here = installation()
    if arguments.source is None:
        return {"kind": "installation", "installation": here}, missing_packages(here), None
    model, findings = examine_model(arguments.source)
    return {"kind": "model", "model": model, "installation": here}, findings + missing_packages(here), None


def print_content(content: dict[str, Any], source: str | None, report: DataReport | None) -> None:
    if report is not None:
        print_data_report(report)
        return
    if "model" in content:
        print(f"{source}: a model")
        print_model(content["model"])
    print_installation(content["installation"])


def main(argv: Sequence[str] | None = None) -> int:
    arguments = parse_arguments(argv)
    if arguments.output is not None:
        check_is_new(arguments.output)
    content, findings, report = examine(arguments)
    findings = sorted_by_severity(findings)
    content = {"setr_hf": version("setr-hf"), "source": arguments.source, **content}
    content["findings"] = [finding.to_dict() for finding in findings]
    if arguments.json:
        print(json.dumps(content, indent=2, ensure_ascii=False))
    else:
        print_content(content, arguments.source, report)
        print_findings(findings)
    if arguments.output is not None:
        with whole_folder(arguments.output) as folder:
            write_json(folder / "report.json", content)
            if report is not None:
                draw_sheet(report.facts, findings).save(folder / "sheet.png")
    return exit_status(findings)
