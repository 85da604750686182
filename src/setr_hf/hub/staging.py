"""The files of a model as they will be published, in a folder of their own, and the checks before anything is sent."""

import re
import shutil
from dataclasses import replace
from pathlib import Path
from typing import cast

import torch
from huggingface_hub import ModelCard, ModelCardData
from transformers import BaseImageProcessor, PreTrainedModel
from transformers.utils import logging

from .. import model as model_room
from ..cards.model_card import ModelFacts, write_model_card
from ..cards.reading import read_card
from ..cards.results import LISTED_AS, add_results
from ..checkpoints.convert import load_original
from ..errors import SetrError
from ..files import check_space, read_text, size_of
from ..inference.loading import load_model
from ..text import one_line
from .manifest import MANIFEST, SIGNATURE
from .zoo import converted_facts


logger = logging.get_logger(__name__)

CARD = "README.md"
WEIGHTS = ("*.safetensors", "*.safetensors.index.json")
# What is copied from a folder besides what a model and its image processor save: the card, its pictures, a licence.
COPIED = (CARD, "*.png", "LICENSE*", "labels.json")
# What a published folder may hold.
ALLOWED = (*WEIGHTS, *COPIED, "*.py", "config.json", "preprocessor_config.json", MANIFEST, SIGNATURE)
CODE_FOLDER = Path(model_room.__file__).parent
# What travels with every saved model.
CODE = tuple(sorted(path.name for path in CODE_FOLDER.glob("*_setr.py")))
INTRODUCTION = "A SETR model. Who trained it, on what and how, is not stated."
TEXT_SUFFIXES = {".md", ".json", ".py", ".txt", ".yaml", ""}
TOKEN = re.compile(r"\bhf_[A-Za-z0-9]{20,}")
FOLDERS = "home|root|Users|tmp|mnt|data|scratch|var|opt|work"
ABSOLUTE_PATH = re.compile(rf"(?<![\w.:/<-])(/(?:{FOLDERS})/[^\s\"'`)>]+|[A-Z]:\\\\?Users\\)")


def stage_model(source: Path, folder: Path, repo_id: str, revision: str, dataset: str | None = None) -> None:
    """Puts the files of a model into the new `folder`: weights, configuration, image processor and the code that
    travels with them, as this version of the package saves them, and the card with its pictures. `source` is a folder
    that `from_pretrained` loads, of a training run too, whose optimizer, logs and checkpoints stay where they are; or
    a public checkpoint, which is converted with the classes of `dataset`. The card's examples load `repo_id` at
    `revision`. Raises [`SetrError`] if the model is not whole, or gives other logits from `folder`.
    """
    if source.is_file():
        stage_checkpoint(source, folder, repo_id, revision, dataset)
    elif source.is_dir():
        stage_folder(source, folder, repo_id, revision)
    else:
        raise SetrError(f"{source} is neither a folder of a model nor a checkpoint file")


def stage_checkpoint(source: Path, folder: Path, repo_id: str, revision: str, dataset: str | None) -> None:
    model, processor, report = load_original(source, dataset)
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    facts = converted_facts(source, Path(repo_id), report)
    write_model_card(folder, replace(facts, repository=repo_id, revision=revision), report.config, processor)
    check_same_logits(model, processor, source, folder)


def stage_folder(source: Path, folder: Path, repo_id: str, revision: str) -> None:
    model, processor = load_model(str(source))
    check_space(folder, size_of_weights(source))
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    for pattern in COPIED:
        for path in sorted(source.glob(pattern)):
            shutil.copyfile(path, folder / path.name)
    for path in sorted(source.glob("*.py")):
        if path.name not in CODE or path.read_bytes() != (folder / path.name).read_bytes():
            logger.warning(f"{path} is not the code of this version of setr-hf, which is published instead")
    if (folder / CARD).is_file():
        name_repository(folder / CARD, source.resolve().name, repo_id, revision)
    else:
        facts = ModelFacts(repo_id, INTRODUCTION, "not stated.", revision)
        write_model_card(folder, facts, model.config, processor)
    check_same_logits(model, processor, source, folder)


def size_of_weights(source: Path) -> int:
    return sum(size_of(path) for path in source.glob("*.safetensors"))


def name_repository(path: Path, name: str, repo_id: str, revision: str) -> None:
    """Lets a card's examples, which load a folder by its `name`, load the repository at `revision`, and its commands
    evaluate that.
    """
    text = read_text(path)
    blocks = re.split(r"(```python\n.*?\n```)", text, flags=re.DOTALL)
    for index in range(1, len(blocks), 2):
        renamed = blocks[index].replace(f'"{name}"', f'"{repo_id}"')
        blocks[index] = renamed.replace('revision="main"', f'revision="{revision}"')
    path.write_text("".join(blocks), encoding="utf-8")
    card = read_card(path)
    if cast(ModelCardData, card.data).eval_results:
        add_results(card, [], repo_id)
        card.save(path)


@torch.inference_mode()
def check_same_logits(model: PreTrainedModel, processor: BaseImageProcessor, source: Path, folder: Path) -> None:
    """Raises a [`SetrError`] if the model in `folder` gives other logits on fixed pixels, by a single bit."""
    height, width = processor.crop_size.height, processor.crop_size.width
    noise = torch.rand(1, model.config.num_channels, height, width, generator=torch.Generator().manual_seed(0))
    published, _ = load_model(str(folder))
    if not torch.equal(model(noise).logits, published(noise).logits):
        raise SetrError(f"{source} gives other logits after it was saved to be published: please report this")


def check_folder(folder: Path) -> None:
    """Raises a [`SetrError`] that names the first file which does not belong on a public page: of another kind than a
    model's, with a token or an absolute path in it, a card that the Hub would refuse, or none.
    """
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder)
        if path.is_dir():
            continue
        if path.is_symlink() or len(name.parts) > 1 or not any(path.match(pattern) for pattern in ALLOWED):
            raise SetrError(f"{name} is not a file of a model: it is not published. Move it out of the folder")
        if path.suffix in TEXT_SUFFIXES:
            text = path.read_text(encoding="utf-8", errors="replace")
            if TOKEN.search(text):
                raise SetrError(f"{name} holds a token of the Hub: remove it, and revoke the token")
            found = ABSOLUTE_PATH.search(text)
            if found and path.suffix != ".py":
                raise SetrError(f"{name} holds the path {one_line(found[0], 200)} of this computer: remove it")
    for needed in ("config.json", "preprocessor_config.json", *CODE):
        if not (folder / needed).is_file():
            raise SetrError(f"the model has no {needed}")
    check_card(read_card(folder / CARD))


def check_card(card: ModelCard) -> None:
    """Raises a [`SetrError`] if a card lacks what the Hub needs."""
    for name, value in LISTED_AS.items():
        if card.data.get(name) != value:
            raise SetrError(f"the card says {name}: {card.data.get(name)}, not {value}: correct {CARD}")
