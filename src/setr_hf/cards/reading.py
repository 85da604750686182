"""Reads cards that others wrote."""

from pathlib import Path

from huggingface_hub import ModelCard

from ..errors import SetrError
from ..files import read_text


def read_card(path: Path) -> ModelCard:
    """The model card in a `README.md`. Raises a [`SetrError`] if its metadata, the YAML between the two lines `---` at
    its beginning, cannot be read: what cannot be read would be lost when the card is written again.
    """
    text = read_text(path, most_bytes=2**20)
    try:
        card = ModelCard(text)
        # Writing what was read shows whether it can be written.
        again = ModelCard(str(card))
    except Exception as error:  # Of PyYAML and huggingface_hub, on values of other types than theirs.
        raise SetrError(f"the metadata of {path} cannot be read: {error}. Correct the YAML at its beginning") from None
    if text.lstrip().startswith("---") and not card.data.to_dict():
        raise SetrError(f"the metadata of {path} cannot be read: no second line --- ends it, or it is empty")
    if again.text != card.text or again.data.to_dict() != card.data.to_dict():
        raise SetrError(f"the metadata of {path} would change when it is written again: correct it by hand")
    return card
