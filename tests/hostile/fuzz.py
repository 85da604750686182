"""Coverage-guided fuzzing of a reader: `python tests/hostile/fuzz.py names_file 20000` tries 20,000 inputs.

atheris, which is libFuzzer for Python, changes valid files so that they reach lines that no input has reached before.
Each must end in a result or in one clear line; the first that does not is printed, and the exit status is not 0.
"""

import json
import sys
import tempfile
import warnings
from collections import Counter
from contextlib import suppress
from pathlib import Path

import atheris


INSTRUMENTED = ["setr_hf", "json", "yaml", "huggingface_hub.repocard", "huggingface_hub.repocard_data"]
with atheris.instrument_imports(include=INSTRUMENTED):
    import families_cards
    import families_checkpoints
    import families_names_files
    import yaml
    from hostile import check_refusal
    from mutations import as_json

    from setr_hf.cards.reading import read_card
    from setr_hf.checkpoints.convert import load_original
    from setr_hf.checkpoints.encoder import load_encoder
    from setr_hf.checkpoints.reading import read_checkpoint
    from setr_hf.data.label_sets import read_names_file
    from setr_hf.errors import SetrError
    from setr_hf.files import parse_json
    from setr_hf.training.recipes import find_recipe


def read_config(path):
    """`--config` as text, and as fields of a conversion of a valid checkpoint."""
    try:
        config = parse_json(path.read_bytes().decode("utf-8", "replace"))
    except ValueError as error:
        raise SetrError(error) from None
    checkpoint = path.with_name("valid.pth")
    if not checkpoint.exists():
        checkpoint.write_bytes(families_checkpoints.valid_bytes("zip"))
    if isinstance(config, dict):
        families_checkpoints.check_model(load_original(checkpoint, overrides=config))


def read_pickle(path):
    """The bytes as the pickle within an archive of torch, whose checksums would stop any other change."""
    path.write_bytes(families_checkpoints.archive_with(path.read_bytes()))
    read_checkpoint(path)


def read_npz(path):
    """The bytes as an array within an archive."""
    path.write_bytes(families_checkpoints.archive_with(path.read_bytes(), names=["cls.npy"]))
    load_encoder(families_checkpoints.encoder_model(), path)


SMALL_PICKLE = families_checkpoints.pth({"state_dict": {}, "meta": {"CLASSES": ["a"]}}, legacy=True)
# The reader of each target, the suffix of its file, and valid files to begin with.
TARGETS = {
    "names_file": (
        lambda path: families_names_files.check_label_set(read_names_file(path)),
        ".json",
        [as_json(content) for content in families_names_files.VALID],
    ),
    "recipe": (
        lambda path: families_names_files.check_recipe(find_recipe(str(path))),
        ".yaml",
        [yaml.safe_dump(families_names_files.RECIPE).encode(), *families_names_files.BOMBS],
    ),
    "config": (read_config, ".json", [as_json(families_checkpoints.CONFIG)]),
    "card": (
        read_card,
        ".md",
        [b"---\n" + yaml.safe_dump(families_cards.METADATA).encode() + b"---\n" + families_cards.BODY.encode()],
    ),
    "checkpoint": (read_checkpoint, ".pth", [SMALL_PICKLE, families_checkpoints.archive_with(b"\x80\x02}q\x00.")]),
    "pickle": (
        read_pickle,
        ".pth",
        [families_checkpoints.pickle_calling(*call) for call in families_checkpoints.CALLS],
    ),
    "safetensors": (read_checkpoint, ".safetensors", [families_checkpoints.small_safetensors()]),
    "npz": (read_npz, ".npz", [families_checkpoints.small_npy()]),
}


def main():
    name, runs = sys.argv[1], int(sys.argv[2])
    read, suffix, seeds = TARGETS[name]
    warnings.simplefilter("ignore")
    with tempfile.TemporaryDirectory(prefix="fuzz-") as folder:
        endings: Counter[str] = Counter()
        path, corpus = Path(folder) / f"input{suffix}", Path(folder) / "corpus"
        corpus.mkdir()
        for index, seed in enumerate(seeds):
            (corpus / str(index)).write_bytes(seed)

        def try_one(data):
            path.write_bytes(data)
            try:
                read(path)
                endings["result"] += 1
            except SetrError as error:
                check_refusal(error)
                endings["refused"] += 1
            if endings.total() == runs:
                print(f"endings: {json.dumps(endings)}", flush=True)  # libFuzzer ends the process by itself.

        options = [f"-runs={runs}", "-timeout=60", "-rss_limit_mb=6000", "-max_len=4096", "-seed=1", "-verbosity=0"]
        atheris.Setup([sys.argv[0], *options, "-print_final_stats=1", str(corpus)], try_one)
        with suppress(SystemExit):
            atheris.Fuzz()


if __name__ == "__main__":
    main()
