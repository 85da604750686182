"""Evaluation results in model cards."""

import shlex

import pytest
from huggingface_hub import EvalResult, ModelCard

from setr_hf.cards.benchmarks import BENCHMARKS, find_benchmark
from setr_hf.cards.results import (
    BEGIN,
    END,
    eval_results,
    is_measured,
    published_results,
    results_section,
    update_card,
)


def test_a_new_result_replaces_its_value_and_the_table_and_nothing_else(tmp_path):
    card = f"---\nlicense: apache-2.0\nmine: 1\n---\n\n# My model\n\nAbove.\n\n{BEGIN}\n{END}\n\nBelow.\n"
    (tmp_path / "README.md").write_text(card)
    summary = {"mean_iou": 0.48638, "overall_accuracy": 0.8, "mean_accuracy": None}
    update_card(str(tmp_path), eval_results(summary, "scenes", "validation", None))
    update_card(str(tmp_path), eval_results(summary, "scenes", "validation", (0.5, 1.0)))
    update_card(str(tmp_path), eval_results({**summary, "mean_iou": 0.5}, "scenes", "validation", None))
    card = ModelCard.load(tmp_path / "README.md")
    assert card.data.license == "apache-2.0" and card.data["mine"] == 1
    values = {result.metric_name: result.metric_value for result in card.data.eval_results}
    assert values == {
        "mean IoU (%), single scale": 50.0,
        "pixel accuracy (%), single scale": 80.0,
        "mean IoU (%), scales 0.5, 1 with mirror images": 48.64,
        "pixel accuracy (%), scales 0.5, 1 with mirror images": 80.0,
    }
    before, table = card.text.split(BEGIN)
    assert before == "\n# My model\n\nAbove.\n\n"
    table, after = table.split(END)
    assert after == "\n\nBelow.\n"
    assert "| scenes | validation | single scale | 50.00 | 80.00 | measured |" in table
    assert "| scenes | validation | scales 0.5, 1 with mirror images | 48.64 | 80.00 | measured |" in table
    assert "--dataset path/to/scenes --protocol multi --scales 0.5 1\n" in table


def test_a_card_is_begun_in_a_folder_that_has_none(tmp_path):
    folder = tmp_path / "my model"
    folder.mkdir()
    update_card(str(folder), eval_results({"mean_iou": 0.5}, "me/photos", "test"))
    card = ModelCard.load(folder / "README.md")
    assert card.data.model_name == "my model"
    assert "setr-hf evaluate --model 'my model' --dataset me/photos --split test\n" in card.text


def test_a_result_on_held_out_samples_says_so_and_so_does_the_command_that_computes_it(tmp_path):
    results = eval_results({"mean_iou": 0.5}, "scenes", "validation", (0.5, 1.0), validation_fraction=0.25)
    update_card(str(tmp_path), results)
    card = ModelCard.load(tmp_path / "README.md")
    assert card.data.eval_results == results and is_measured(results[0])
    assert "| scenes | validation, 0.25 held out | scales 0.5, 1 with mirror images | 50.00 | measured |" in card.text
    assert "--dataset path/to/scenes --validation-fraction 0.25 --protocol multi --scales 0.5 1\n" in card.text


def test_published_and_measured_figures_of_one_protocol_stand_beside_each_other(tmp_path):
    ade20k, scales = BENCHMARKS["ade20k"], (0.5, 0.75, 1.0)
    theirs = published_results(48.64, ade20k, scales, "the authors", "https://example.com")
    ours = eval_results({"mean_iou": 0.4861}, ade20k, "validation", scales)
    update_card(str(tmp_path), theirs)
    update_card(str(tmp_path), ours)
    results = ModelCard.load(tmp_path / "README.md").data.eval_results
    assert results == [*theirs, *ours]
    assert [is_measured(result) for result in results] == [False, True]
    assert {result.dataset_type for result in results} == {"zhoubolei/scene_parse_150"}
    name = "mean IoU (%), scales 0.5, 0.75, 1 with mirror images"
    assert [result.metric_name for result in results] == [f"{name}, published by the authors", name]
    text = (tmp_path / "README.md").read_text()
    assert "| 48.64 | [published by the authors](https://example.com) |" in text and "| 48.61 | measured |" in text


@pytest.mark.parametrize(
    ("dataset", "split", "num_images", "title"),
    [
        ("ade20k", "validation", 2000, "ADE20K"),
        ("ade20k", "validation", 1999, None),
        ("cityscapes", "train", 2975, "Cityscapes"),
        ("cityscapes", "test", 2975, None),
        (None, "validation", 2000, None),
    ],
)
def test_a_public_data_set_is_known_by_its_classes_and_its_number_of_images(dataset, split, num_images, title):
    benchmark = find_benchmark(dataset, split, num_images)
    assert (benchmark and benchmark.title) == title


@pytest.mark.parametrize("name", ["a|b", "```", "it's", "$(rm x)", "<b>", "line\nbreak", "--flag", 'say "hi": no'])
def test_no_name_breaks_the_table_or_the_commands(name, tmp_path):
    results = eval_results({"mean_iou": 0.5}, name, "validation")
    update_card(str(tmp_path), results)
    assert ModelCard.load(tmp_path / "README.md").data.eval_results == results
    lines = results_section(results, name).splitlines()
    assert lines[0] == BEGIN and lines[-1] == END and "<b>" not in lines[3]
    assert lines[3].replace("\\|", "").count("|") == 6
    assert [line for line in lines if line.startswith("```")] == ["```bash", "```"]
    assert len(shlex.split(lines[-3])) == 6


def test_results_in_other_forms_than_ours_stay_in_the_metadata(tmp_path):
    other = EvalResult("image-segmentation", "x", "x", "dice", 0.3, metric_name="Dice")
    update_card(str(tmp_path), [other])
    update_card(str(tmp_path), eval_results({"mean_iou": 0.5}, "scenes", "validation"))
    card = ModelCard.load(tmp_path / "README.md")
    assert card.data.eval_results[0] == other and "dice" not in card.text.lower()
