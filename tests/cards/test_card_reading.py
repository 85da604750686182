"""A card that cannot be read is named, and left as it is."""

import pytest
from huggingface_hub import EvalResult, ModelCard

from setr_hf.cards.results import update_card
from setr_hf.errors import SetrError


RESULT = EvalResult("image-segmentation", "mine", "mine", "mean_iou", 12.5, metric_name="mean IoU (%), single scale")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"---\ntags: [a\n---\n# SETR\n", "the metadata of .*README.md cannot be read: .*expected"),
        (b"---\n- a\n---\n# SETR\n", "metadata block should be a dict"),
        (b"---\nmodel-index: 3\n---\n# SETR\n", "cannot be read"),
        (b"---\ntags: [a]\n# SETR\n", "no second line --- ends it"),
        (b"---\na: " + b"[" * 5000 + b"\n---\n", "recursion"),
        (b"\xff\xfe# SETR", "README.md is not text in UTF-8"),
        (b"x" * 5 * 2**20, "README.md has 5,242,880 bytes"),
    ],
)
def test_a_card_that_cannot_be_read_stays_as_it_is(tmp_path, content, message):
    (tmp_path / "README.md").write_bytes(content)
    with pytest.raises(SetrError, match=message):
        update_card(str(tmp_path), [RESULT])
    assert (tmp_path / "README.md").read_bytes() == content


def test_a_card_without_metadata_keeps_its_text(tmp_path):
    (tmp_path / "README.md").write_text("# Mine\n\n---\n\nTwo parts.\n")
    update_card(str(tmp_path), [RESULT])
    card = ModelCard.load(tmp_path / "README.md")
    assert card.text.endswith("# Mine\n\n---\n\nTwo parts.\n") and card.data.eval_results[0].metric_value == 12.5
