"""Lists the training recipes with their published results, or prints one as YAML, to edit and to train by."""

if __name__ == "__main__":  # Here, as the imports below take seconds, in which it can be interrupted.
    from setr_hf_cli import run_script

    raise SystemExit(run_script(__file__))

import argparse
from collections.abc import Sequence

from setr_hf.cli import JobParser, positive
from setr_hf.errors import SetrError
from setr_hf.model.configuration_setr import DECODER_TYPES
from setr_hf.tables import print_table
from setr_hf.training.cost import preset_rows
from setr_hf.training.recipes import all_recipes, find_recipe


def parse_arguments(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = JobParser(description=__doc__)
    parser.add_argument("name", nargs="?", help="the recipe to print, for `setr-hf train --recipe FILE.yaml`")
    parser.add_argument(
        "--presets", nargs="*", metavar="NAME", help="list these networks for `setr-hf train --preset`, or all"
    )
    parser.add_argument("--num-labels", type=positive, default=150, help="classes of the networks that are listed")
    parser.add_argument("--size", type=positive, default=512, help="side of their images in pixels")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    arguments = parse_arguments(argv)
    name = arguments.name
    if arguments.presets is not None:
        columns = ["preset", "layers", "width", "heads", *DECODER_TYPES, "public encoder", "network"]
        try:
            print_table(columns, preset_rows(arguments.presets, arguments.num_labels, arguments.size))
        except ValueError as error:
            raise SetrError(error) from None
        return 0
    if name:
        print(find_recipe(name).to_yaml(), end="")
        return 0
    rows = []
    for recipe in all_recipes().values():
        results = [recipe.published.get(kind) for kind in ("single_scale", "multi_scale")]
        cells = [None if result is None else f"{result:.2f}" for result in results]
        rows.append([recipe.name, recipe.origin, recipe.classes or "any", *cells])
    print_table(["recipe", "origin", "data set", "mIoU, single scale", "mIoU, multi-scale"], rows)
    return 0
