"""What is published beside models: the metric and a demonstration as Spaces, and a collection of the zoo."""

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path

from huggingface_hub import HfApi

from .. import metrics
from ..errors import SetrError
from ..files import temporary_folder
from .publish import Publication, check_login, hub_errors_named, publish_folder


METRIC_FOLDER = Path(metrics.__file__).parent
APP = Path(__file__).parent / "space/app.py"
# The app's code goes into the Space, where no release of this package is needed.
PACKAGE = Path(metrics.__file__).parents[1]
NOT_CODE = shutil.ignore_patterns("__pycache__", "scripts", "space")
DEMO_README = """---
title: SETR
emoji: 🏞️
colorFrom: green
colorTo: blue
sdk: gradio
app_file: app.py
pinned: false
license: apache-2.0
models:
- {model}
---

# SETR

Drop a photo and see its classes. The model is [{model}](https://huggingface.co/{model}) at the revision `{revision}`.
"""
COLLECTION_TITLE = "SETR"
COLLECTION_DESCRIPTION = "The public SETR checkpoints (CVPR 2021) for Transformers, converted exactly"


@contextmanager
def metric_files(repo_id: str) -> Iterator[Path]:
    """A temporary folder with the metric in the form of a Space, whose main file has the Space's name."""
    name = repo_id.rpartition("/")[2]
    if not name.isidentifier():
        raise SetrError(f"{repo_id}: a metric's name must be one of Python's, such as streaming_mean_iou")
    with temporary_folder() as folder:
        shutil.copyfile(METRIC_FOLDER / "metrics.py", folder / f"{name}.py")
        for file in ("confusion.py", "README.md"):
            shutil.copyfile(METRIC_FOLDER / file, folder / file)
        yield folder


def requirements() -> list[str]:
    """What this package needs, without its extras; gradio is part of each Space."""
    return [line for line in metadata.requires("setr-hf") or () if "extra ==" not in line]


@contextmanager
def demo_files(model: str, revision: str) -> Iterator[Path]:
    """A temporary folder with the demonstration of a published model in the form of a Space."""
    with temporary_folder() as folder:
        shutil.copyfile(APP, folder / "app.py")
        (folder / "model.json").write_text(json.dumps({"id": model, "revision": revision}), encoding="utf-8")
        shutil.copytree(PACKAGE, folder / "setr_hf", ignore=NOT_CODE)
        shutil.copyfile(PACKAGE.with_name("setr_hf_ending.py"), folder / "setr_hf_ending.py")
        (folder / "requirements.txt").write_text("".join(f"{line}\n" for line in requirements()), encoding="utf-8")
        (folder / "README.md").write_text(DEMO_README.format(model=model, revision=revision), encoding="utf-8")
        yield folder


def publish_metric(repo_id: str, *, private: bool = False) -> Publication:
    """Publishes the metric as a Space, from which `evaluate.load(repo_id, num_labels=…)` loads it. Interrupted, the
    same call goes on. Raises [`SetrError`] as [`publish`] does, and for a name that Python cannot import.
    """
    api = HfApi()
    check_login(api, repo_id)
    with metric_files(repo_id) as folder:
        return publish_folder(api, folder, repo_id, "space", private, None, sdk="static")


def publish_demo(repo_id: str, model: str, revision: str, *, private: bool = False) -> Publication:
    """Publishes a Space in which visitors segment photos by a published model at a revision. Raises [`SetrError`] as
    [`publish`] does, and if the model has no such revision.
    """
    api = HfApi()
    check_login(api, repo_id)
    with hub_errors_named(model):
        api.model_info(model, revision=revision)
    with demo_files(model, revision) as folder:
        return publish_folder(api, folder, repo_id, "space", private, None, sdk="gradio")


def publish_collection(namespace: str, names: list[str], *, private: bool = False) -> tuple[str, list[str]]:
    """Puts those models of the zoo that a user or an organization has published into a collection of theirs, which is
    created if it is missing. Returns its address and the models in it. Raises [`SetrError`] if there is none.
    """
    api = HfApi()
    check_login(api, namespace)
    with hub_errors_named(namespace):
        models = [f"{namespace}/{name}" for name in names if api.repo_exists(f"{namespace}/{name}")]
        if not models:
            raise SetrError(f"{namespace} has published none of the zoo's models, such as {namespace}/{names[0]}")
        collection = api.create_collection(
            COLLECTION_TITLE,
            namespace=namespace,
            description=COLLECTION_DESCRIPTION,
            private=private,
            exists_ok=True,
        )
        for model in models:
            api.add_collection_item(collection.slug, model, "model", exists_ok=True)
    return f"{api.endpoint}/collections/{collection.slug}", models
