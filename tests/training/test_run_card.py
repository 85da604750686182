"""The card that `SetrTrainer` writes beside a model."""

import json
import re

import pytest
from huggingface_hub import ModelCard
from PIL import Image
from transformers import TrainerState

from setr_hf import SetrForSemanticSegmentation, SetrImageProcessor, SetrTrainer, SetrTrainingArguments
from setr_hf.cards.benchmarks import BENCHMARKS
from setr_hf.cards.results import eval_results, update_card
from setr_hf.data.augmentation import training_transform
from setr_hf.data.examples import collate, evaluation_examples, training_examples
from setr_hf.data.scenes import make_scenes
from setr_hf.training.run_card import RunFacts, curves_figure, scores_of_saved_weights, source_text


HOSTILE = ["a|b", "'quo\"ted'", "colon: - yes", "new\nline\n---\nlicense: mit", "<script>alert(1)</script> <!-- -->"]


@pytest.fixture
def make_run(tiny_config, tmp_path):
    """A function that makes a trainer of two steps on generated scenes, evaluated after each."""

    def make(model=None, **arguments):
        data = make_scenes(count=2, first_seed=0)
        fields = data.label_set.config_fields
        model = model or SetrForSemanticSegmentation(tiny_config(num_labels=len(fields["id2label"]), **fields))
        processor = SetrImageProcessor(do_split_image=True, do_resize=False, crop_size=64, stride=48)
        augment = training_transform((64, 64), (0.5, 2.0), None, processor.image_mean, processor.image_std)
        defaults = {"max_steps": 2, "eval_strategy": "steps", "eval_steps": 1, "logging_steps": 1, "use_cpu": True}
        defaults |= {"save_strategy": "no", "report_to": [], "disable_tqdm": True, "head_learning_rate_ratio": 10}
        return SetrTrainer(
            model,
            SetrTrainingArguments(str(tmp_path / "my run"), **defaults | arguments),
            train_dataset=training_examples(data, augment),
            eval_dataset=evaluation_examples(data),
            data_collator=collate,
            processing_class=processor,
        )

    return make


def test_saving_a_model_writes_the_card_of_its_run(make_run, tmp_path):
    trainer = make_run()
    trainer.run_facts = RunFacts(dataset="me/scenes", encoder="google/vit-base-patch16-384", recipe="mine")
    trainer.train()
    trainer.save_model()
    folder = tmp_path / "my run"
    card = ModelCard.load(folder / "README.md")
    log = next(log for log in reversed(trainer.state.log_history) if "eval_mean_iou" in log)
    assert log["step"] == 2
    assert [(result.metric_name, result.metric_value) for result in card.data.eval_results] == [
        (f"{name} (%), single scale", round(100 * log[f"eval_{metric}"], 2))
        for metric, name in (
            ("mean_iou", "mean IoU"),
            ("overall_accuracy", "pixel accuracy"),
            ("mean_accuracy", "mean accuracy"),
        )
    ]
    assert {result.dataset_type for result in card.data.eval_results} == {"me/scenes"}
    assert card.data.base_model == "google/vit-base-patch16-384" and card.data.datasets == ["me/scenes"]
    assert "generated_from_trainer" in card.data.tags and card.data.license is None
    assert "trained from the encoder of [google/vit-base-patch16-384](https://huggingface.co/google/" in card.text
    assert "| learning rate | 5e-05, and 0.0005 for the heads |" in card.text and "| steps | 2 |" in card.text
    pictures = re.findall(r"!\[.*?\]\((.*?)\)", card.text)
    assert pictures == ["architecture.png", "curves.png", "predictions.png"]
    for name in pictures:
        with Image.open(folder / name) as picture:
            picture.verify()
    assert (folder / "predictions.png").read_bytes() == (folder / "predictions/step-2.png").read_bytes()
    assert str(tmp_path) not in (folder / "README.md").read_text()


def test_a_fine_tuned_model_names_the_model_it_started_from(make_run, tiny_model, tmp_path):
    classes = make_scenes(count=1, first_seed=0).label_set.config_fields
    tiny_model(num_labels=len(classes["id2label"]), **classes).save_pretrained(tmp_path / "first")
    trainer = make_run(SetrForSemanticSegmentation.from_pretrained(tmp_path / "first"))
    trainer.create_model_card()
    card = ModelCard.load(tmp_path / "my run/README.md")
    assert "fine-tuned from first with" in card.text and card.data.base_model is None
    assert "No results yet." in card.text and card.data.eval_results is None
    trainer.model.config._name_or_path = "me/first"
    trainer.create_model_card(license="mit", tags="street", model_name="second")
    card = ModelCard.load(tmp_path / "my run/README.md")
    assert card.data.base_model == "me/first" and card.data.base_model_relation == "finetune"
    assert card.data.license == "mit" and {"street", "generated_from_trainer", "setr"} <= set(card.data.tags)
    assert card.text.startswith("\n# second\n")


def test_an_evaluation_adds_its_results_to_the_card_of_a_run_and_changes_nothing_else(make_run, tmp_path):
    trainer = make_run()
    trainer.run_facts = RunFacts(dataset="scenes")
    trainer.train()
    trainer.save_model()
    before = ModelCard.load(tmp_path / "my run/README.md")
    update_card(str(tmp_path / "my run"), eval_results({"mean_iou": 0.25}, "scenes", "validation", (0.5, 1.0)))
    after = ModelCard.load(tmp_path / "my run/README.md")
    added = after.data.eval_results[len(before.data.eval_results) :]
    assert [result.metric_value for result in added] == [25.0]
    lines = [set(card.text.splitlines()) for card in (before, after)]
    assert lines[0] <= lines[1]
    assert sorted(lines[1] - lines[0]) == [
        "setr-hf evaluate --model 'my run' --dataset path/to/scenes --protocol multi --scales 0.5 1",
        "| scenes | validation | scales 0.5, 1 with mirror images | 25.00 |  |  | measured |",
    ]
    after.data.eval_results = before.data.eval_results
    assert after.data.to_dict() == before.data.to_dict()


def test_no_name_breaks_the_card(make_run, tiny_config, tmp_path):
    classes = {"id2label": dict(enumerate(HOSTILE)), "label2id": {name: i for i, name in enumerate(HOSTILE)}}
    trainer = make_run(SetrForSemanticSegmentation(tiny_config(**classes)))
    plain = None
    for name in ["plain", *HOSTILE]:
        trainer.run_facts = RunFacts(dataset=name, model=name, recipe=name, rows=[(name, name)])
        trainer.state.log_history = [{"step": 0, "eval_mean_iou": 0.5}]
        trainer.create_model_card(model_name=name)
        text = (tmp_path / "my run/README.md").read_text()
        card = ModelCard(text)
        assert card.data.eval_results[0].dataset_name == name and card.data.license is None
        prose = re.sub(r"^```.*?^```", "", card.text, flags=re.MULTILINE | re.DOTALL)
        assert "<script>" not in prose and "<!-- -->" not in prose
        # As many headings, rows and blocks of code as with a plain name.
        form = [len(re.findall(mark, card.text, re.MULTILINE)) for mark in ("^#+ ", r"^\|", "^```", "^<")]
        plain = plain or form
        assert form == plain


@pytest.mark.parametrize(
    ("is_best", "best_step", "expected"), [(False, None, 0.3), (True, 10, 0.5), (True, None, 0.3), (False, 10, 0.3)]
)
def test_the_scores_of_a_card_are_those_of_the_saved_weights(is_best, best_step, expected):
    history = [{"step": 10, "eval_mean_iou": 0.5}, {"step": 20, "loss": 1.0}, {"step": 20, "eval_mean_iou": 0.3}]
    state = TrainerState(global_step=20, best_global_step=best_step, log_history=history)
    assert scores_of_saved_weights(state, is_best)["eval_mean_iou"] == expected
    assert scores_of_saved_weights(TrainerState(global_step=25, log_history=history), is_best) == {}


def test_curves_leave_out_what_is_not_a_number_and_what_was_not_logged():
    assert curves_figure([]) is None
    assert len(curves_figure([{"step": 1, "loss": float("nan")}, {"step": 2, "loss": 1.0}]).axes) == 1
    assert len(curves_figure([{"step": 1, "loss": 1.0}, {"step": 1, "eval_mean_iou": 0.1}]).axes) == 2


def test_folders_are_named_without_their_place():
    assert source_text("/home/me/models/first") == "first"
    assert source_text("me/first") == "[me/first](https://huggingface.co/me/first)"


def test_a_run_on_a_public_data_set_says_what_it_is_and_on_what_terms(make_run, tmp_path):
    trainer = make_run()
    trainer.run_facts = RunFacts(dataset="ADEChallengeData2016", benchmark=BENCHMARKS["ade20k"])
    trainer.create_model_card()
    card = ModelCard.load(tmp_path / "my run/README.md")
    assert card.data.datasets == ["zhoubolei/scene_parse_150"]
    assert "non-commercial research" in card.text and "ADEChallengeData2016" not in json.dumps(card.data.to_dict())
