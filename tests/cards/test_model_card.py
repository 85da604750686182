"""Evaluation results in model cards."""

from huggingface_hub import ModelCard

from setr_hf.cards.model_card import eval_results, update_card


def test_model_card_keeps_its_text_and_replaces_values(tmp_path):
    (tmp_path / "README.md").write_text("---\nlicense: apache-2.0\n---\n\n# My model\n\nText of mine.\n")
    summary = {"mean_iou": 0.48638, "overall_accuracy": 0.8, "mean_accuracy": None}
    update_card(str(tmp_path), eval_results(summary, "scenes", "validation", None))
    update_card(str(tmp_path), eval_results(summary, "scenes", "validation", (0.5, 1.0)))
    update_card(str(tmp_path), eval_results({**summary, "mean_iou": 0.5}, "scenes", "validation", None))
    card = ModelCard.load(tmp_path / "README.md")
    assert card.data.license == "apache-2.0" and "Text of mine." in card.text
    values = {result.metric_name: result.metric_value for result in card.data.eval_results}
    assert values == {
        "mean IoU (%), single scale": 50.0,
        "pixel accuracy (%), single scale": 80.0,
        "mean IoU (%), scales 0.5, 1 with mirror images": 48.64,
        "pixel accuracy (%), scales 0.5, 1 with mirror images": 80.0,
    }
