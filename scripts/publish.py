"""Publishes a model, or the metric, a demonstration or a collection of the zoo, on the Hub."""

if __name__ == "__main__":  # Here, as the imports below take seconds, in which it can be interrupted.
    from setr_hf_cli import run_script

    raise SystemExit(run_script(__file__))

import argparse
from pathlib import Path

from setr_hf.cli import JobParser
from setr_hf.data.public_datasets import CLASS_NAMES
from setr_hf.errors import SetrError
from setr_hf.files import size_of
from setr_hf.hub.publish import DEFAULT_REVISION, Publication, publish, staged
from setr_hf.hub.spaces import demo_files, metric_files, publish_collection, publish_demo, publish_metric
from setr_hf.hub.zoo import zoo_recipes
from setr_hf.tables import print_options, print_table


SPACES = ("metric", "demo", "zoo")


def parse_arguments(argv: list[str] | None = None) -> argparse.Namespace:
    parser = JobParser(
        description=__doc__,
        epilog="The token is that of `hf auth login` or HF_TOKEN. Interrupted, the same command goes on.",
    )
    option = parser.add_argument
    option(
        "source",
        help="folder of a model, output of a training run, or public checkpoint; or metric or demo (a Space each), or "
        "zoo (a collection of the zoo's models that REPO, a user or organization, has published)",
    )
    option("repo", metavar="REPO", help="owner/name on the Hub, created if it is missing")
    option("--private", action="store_true", help="make a new repository private")
    option(
        "--revision", default=DEFAULT_REVISION, help="tag of this version, for users to pin; of a demo, its model's"
    )
    option("--dry-run", action="store_true", help="list files and sizes and print the card; send nothing")
    option("--dataset", metavar="DATA", help=f"classes of a public checkpoint: {', '.join(CLASS_NAMES)}, or a file")
    option("--model", metavar="ID", help="with demo: the published model that it shows")
    option("--sign", type=Path, metavar="KEY", help="sign the files with this private key (extra: setr-hf[signing])")
    arguments = parser.parse_args(argv)
    if (arguments.source == "demo") != (arguments.model is not None):
        parser.error("demo and --model belong together: setr-hf publish demo REPO --model ID")
    if arguments.source in SPACES and (arguments.dataset or arguments.sign):
        parser.error(f"--dataset and --sign belong to models, not to {arguments.source}")
    return arguments


def show(folder: Path) -> None:
    """Prints the files that would be published, and the card."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    print_table(("file", "bytes"), [(path.relative_to(folder), f"{path.stat().st_size:,}") for path in files])
    print(f"{size_of(folder):,} bytes in {len(files)} files; nothing was sent\n")
    print((folder / "README.md").read_text(encoding="utf-8"))


def dry_run(arguments: argparse.Namespace) -> None:
    if arguments.source == "zoo":
        raise SetrError("a collection has no files to list: leave out --dry-run")
    if arguments.source == "metric":
        files = metric_files(arguments.repo)
    elif arguments.source == "demo":
        files = demo_files(arguments.model, arguments.revision)
    else:
        files = staged(arguments.source, arguments.repo, arguments.revision, arguments.dataset, arguments.sign)
    with files as folder:
        show(folder)


def report(publication: Publication) -> None:
    state = "published now" if publication.is_new else "was there already"
    rows = [("repository", publication.url), ("commit", f"{publication.commit} ({state})")]
    if publication.revision:
        rows += [("revision", publication.revision), ("read back", "the same label map, through the stock pipeline")]
    print_options(rows)


def main(argv: list[str] | None = None) -> int:
    arguments = parse_arguments(argv)
    if arguments.dry_run:
        dry_run(arguments)
    elif arguments.source == "zoo":
        url, models = publish_collection(arguments.repo, list(zoo_recipes()), private=arguments.private)
        print_options([("collection", url), *(("model", model) for model in models)])
    elif arguments.source == "metric":
        report(publish_metric(arguments.repo, private=arguments.private))
    elif arguments.source == "demo":
        report(publish_demo(arguments.repo, arguments.model, arguments.revision, private=arguments.private))
    else:
        report(
            publish(
                arguments.source,
                arguments.repo,
                revision=arguments.revision,
                private=arguments.private,
                dataset=arguments.dataset,
                key=arguments.sign,
            )
        )
    return 0
