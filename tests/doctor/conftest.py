"""A clean data set of generated scenes, a copy of it for each test, and the job."""

import contextlib
import io
import json
import shutil

import pytest
from paths import SCRIPTS

from setr_hf.data.label_sets import write_names_file
from setr_hf.data.scenes import make_scenes
from setr_hf_cli import load_script


@pytest.fixture(scope="session")
def clean_folder(tmp_path_factory):
    """Nine scenes for training and six for validation, in which every class occurs."""
    folder = tmp_path_factory.mktemp("clean") / "data"
    for split, count, first_seed in (("train", 9, 0), ("val", 6, 104)):
        for kind in ("images", "annotations"):
            (folder / kind / split).mkdir(parents=True)
        scenes = make_scenes(count, first_seed)
        for row in scenes.rows:
            row["image"].save(folder / f"images/{split}/{row['name']}.jpg", quality=92)
            row["annotation"].save(folder / f"annotations/{split}/{row['name']}.png")
    write_names_file(folder / "labels.json", scenes.label_set)
    return folder


@pytest.fixture
def folder(clean_folder, tmp_path):
    return shutil.copytree(clean_folder, tmp_path / "data")


@pytest.fixture(scope="session")
def doctor():
    """A function that runs the job with `--json`, and returns its exit status and what it printed."""
    main = load_script(SCRIPTS / "doctor.py").main

    def run(*arguments):
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed):
            status = main([*map(str, arguments), "--json"])
        return status, json.loads(printed.getvalue())

    return run
