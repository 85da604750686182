"""Writes a model for ONNX, OpenVINO or torch.export, if it finds there what it finds here."""

if __name__ == "__main__":  # Here, as the imports below take seconds, in which it can be interrupted.
    from setr_hf_cli import run_script

    raise SystemExit(run_script(__file__))

import sys
from argparse import Namespace
from pathlib import Path

from PIL import Image
from rich.filesize import decimal

from setr_hf.cli import JobParser
from setr_hf.data.scenes import make_scenes
from setr_hf.errors import SetrError
from setr_hf.export.formats import FORMATS
from setr_hf.export.precision import DTYPES
from setr_hf.export.whole_protocol import export_whole_protocol
from setr_hf.export.writing import MIN_AGREEMENT, check_options, export_model
from setr_hf.files import check_is_new
from setr_hf.inference.output_folder import RECORDS_FILE
from setr_hf.inference.photo_files import find_photos
from setr_hf.inference.photos import read_photo
from setr_hf.repositories import check_model
from setr_hf.tables import percent, print_table
from setr_hf.text import one_line


NUM_SCENES = 4


def parse_arguments(argv: list[str] | None) -> Namespace:
    defaults = ", ".join(f"{percent(share)} in {dtype}" for dtype, share in MIN_AGREEMENT.items())
    parser = JobParser(description=__doc__)
    option = parser.add_argument
    option("model", metavar="MODEL", help="folder or Hub id of a SETR model")
    option("output", metavar="OUT", type=Path, help="folder to write, which must be new or empty")
    option("--format", choices=list(FORMATS), default="onnx", help="of the file")
    option("--dtype", choices=DTYPES, default="float32", help="precision; of int8 are the weights alone")
    option(
        "--photos", nargs="+", metavar="PHOTO", help="photos, folders or patterns to compare label maps on, such as "
        f"those that the model is for; else {NUM_SCENES} generated street scenes",
    )  # fmt: skip
    option("--whole-protocol", action="store_true", help="write segment.py beside model.onnx, which makes label maps "
        "of photos with onnxruntime and numpy alone")  # fmt: skip
    option("--min-agreement", type=float, metavar="PERCENT", help=f"pixels that must keep their class ({defaults})")
    return parser.parse_args(argv)


def photos_of(inputs: list[str] | None) -> list[Image.Image]:
    """The photos of these names, or generated scenes. Raises [`SetrError`] if there are none, or one is damaged."""
    if inputs is None:
        return list(make_scenes(NUM_SCENES).rows["image"])
    found = find_photos(inputs, marker=RECORDS_FILE)
    for line in found.left_out():
        print(one_line(line), file=sys.stderr)
    if not found.photos:
        raise SetrError("; ".join([f"no photos found in {', '.join(inputs)}", *found.unreadable_folders()]))
    return [read_photo(path) for path in found.photos]


def main(argv: list[str] | None = None) -> int:
    options = parse_arguments(argv)
    share = None if options.min_agreement is None else options.min_agreement / 100
    if options.whole_protocol and options.format != "onnx":
        raise SetrError(f"--whole-protocol writes ONNX, but --format is {options.format}: leave one of them out")
    check_is_new(options.output)
    check_model(options.model)
    photos = photos_of(options.photos)
    check_options(options.format, options.dtype, share, photos)
    if options.whole_protocol:
        report = export_whole_protocol(options.model, options.output, photos, options.dtype, share)
    else:
        report = export_model(options.model, options.output, options.format, photos, options.dtype, share)
    print_table(
        ("file", "dtype", "size", "pixels that agree, %", "largest difference of logits, %", "seconds"),
        [
            (
                options.output / report.file_name,
                options.dtype,
                decimal(report.size),
                f"{100 * report.agreement:.4f}",
                f"{100 * report.difference:.2g}",
                f"{report.seconds:.0f}",
            )
        ],
    )
    return 0
