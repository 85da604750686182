"""Converts a public SETR checkpoint to a folder that Transformers loads, or such a folder back."""

if __name__ == "__main__":  # Here, as the imports below take seconds, in which it can be interrupted.
    from setr_hf_cli import run_script

    raise SystemExit(run_script(__file__))

import argparse
from pathlib import Path

from setr_hf.cards.model_card import ModelFacts
from setr_hf.checkpoints.convert import IMPLEMENTATIONS, ConversionReport
from setr_hf.checkpoints.export import write_public_checkpoint
from setr_hf.cli import JobParser
from setr_hf.data.public_datasets import CLASS_NAMES
from setr_hf.errors import SetrError
from setr_hf.files import parse_object
from setr_hf.hub.zoo import convert_with_card
from setr_hf.tables import print_options


def json_object(text: str) -> dict:
    try:
        return parse_object(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text} is not a JSON object: {error}") from None


def parse_arguments(argv: list[str] | None = None) -> argparse.Namespace:
    parser = JobParser(description=__doc__)
    parser.add_argument("checkpoint", type=Path, help="a public implementation's .pth or .safetensors")
    parser.add_argument("output", type=Path, help="folder to write")
    parser.add_argument(
        "--dataset",
        metavar="DATA",
        help=f"class names, colours and test protocol: {', '.join(CLASS_NAMES)}, or a JSON file of class names; if "
        "the checkpoint does not name its classes and the number of classes does not tell",
    )
    parser.add_argument(
        "--config",
        type=json_object,
        metavar="JSON",
        help="fields of SetrConfig that override all else, such as '{\"num_attention_heads\": 8}'",
    )
    parser.add_argument("--to", choices=list(IMPLEMENTATIONS), help="the way back: write this implementation's .pth")
    return parser.parse_args(argv)


def print_report(report: ConversionReport, facts: ModelFacts, output: Path) -> None:
    config = report.config
    card = (
        f"of {facts.repository}, by its name" if facts.results else "of what the file shows, as it has no public name"
    )
    print_options(
        [
            ("implementation", IMPLEMENTATIONS[report.implementation]),
            ("model", f"SETR-{config.decoder_type}, {config.num_hidden_layers} layers of width {config.hidden_size}"),
            ("auxiliary heads", len(config.auxiliary_out_indices or ())),
            ("classes", len(config.id2label)),
            ("class names", report.labels),
            ("image processor", report.processor),
            *[("assumed", f"{assumption} (--config overrides it)") for assumption in report.assumptions],
            ("tensors", f"{report.num_used} used; {report.num_set} of {report.num_set} parameters and buffers set"),
            *[("left out", f"{key}: {reason}") for key, reason in sorted(report.unused.items())],
            ("card", card),
            ("written to", output),
        ]
    )


def main(argv: list[str] | None = None) -> int:
    arguments = parse_arguments(argv)
    if arguments.to is None:
        report, facts = convert_with_card(arguments.checkpoint, arguments.output, arguments.dataset, arguments.config)
        print_report(report, facts, arguments.output)
        return 0
    if arguments.dataset or arguments.config:
        raise SetrError("--to takes neither --dataset nor --config: the folder says all")
    state_dict = write_public_checkpoint(arguments.checkpoint, arguments.output, arguments.to)
    print(f"{len(state_dict)} tensors for {IMPLEMENTATIONS[arguments.to]} written to {arguments.output}")
    if arguments.to == "mmseg" and "backbone.patch_embed.projection.bias" in state_dict:
        print("mmsegmentation 1.x loads it whole only with model.backbone.patch_bias=True in its configuration")
    return 0
