"""Merges LoRA adapters, of a run, one of its checkpoints or anybody, into a whole model."""

if __name__ == "__main__":  # Here, as the imports below take seconds, in which it can be interrupted.
    from setr_hf_cli import run_script

    raise SystemExit(run_script(__file__))

from pathlib import Path

from setr_hf.cli import JobParser
from setr_hf.files import check_is_new, whole_folder
from setr_hf.training.merging import adapter_processor, merge_adapter


def main(argv: list[str] | None = None) -> int:
    parser = JobParser(description=__doc__)
    parser.add_argument("adapter", type=Path, help="folder of an adapter, or one that holds it, such as a checkpoint")
    parser.add_argument("output", type=Path, help="folder to write")
    parser.add_argument("--base", help="what the encoder came from, if the adapter does not say")
    arguments = parser.parse_args(argv)
    check_is_new(arguments.output)
    model = merge_adapter(arguments.adapter, arguments.base)
    processor = adapter_processor(arguments.adapter, arguments.base)
    with whole_folder(arguments.output) as folder:
        model.save_pretrained(folder)
        processor.save_pretrained(folder)
    print(f"whole model: {arguments.output}")
    return 0
