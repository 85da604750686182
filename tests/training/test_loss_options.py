"""The losses, weights of classes and binary models that the train job is asked for, as it saves them."""

import json

import numpy as np
import pytest
from data_folders import write_data

from setr_hf import SetrConfig, load_segmentation_data
from setr_hf.cli import run_job
from setr_hf.data.class_weights import count_classes, weights_by_rule
from setr_hf.training.options import parse_command
from setr_hf_cli import find_scripts, load_script


SMALL = {"hidden_size": 32, "num_hidden_layers": 4, "num_attention_heads": 2, "intermediate_size": 64}
SMALL |= {"decoder_hidden_size": 16, "mla_hidden_size": 8}
COMMON = ("--crop-size", 32, "--max-steps", 1, "--per-device-train-batch-size", 2, "--use-cpu")
COMMON += ("--disable-tqdm", "true", "--num-prediction-pictures", 0, "--save-strategy", "no")


@pytest.fixture
def train(tmp_path, capsys):
    """A function that runs the job on noise with so many classes; returns its exit status, text and configuration."""

    def run(*arguments, num_classes=2, folder="out"):
        if not (tmp_path / "data").exists():
            write_data(tmp_path / "data", 2, 40, 50, [f"class {index}" for index in range(num_classes)])
        output = tmp_path / folder
        command = ["--dataset", tmp_path / "data", *COMMON, *arguments, "--output-dir", output]
        job = load_script(find_scripts()["train"]).main
        status = run_job(lambda: job([str(argument) for argument in command]))
        text = "".join(capsys.readouterr())
        return status, text, SetrConfig.from_pretrained(output) if status == 0 else None

    return run


def test_inverse_frequency_gives_every_class_the_same_weight_in_all():
    weights = weights_by_rule("inverse-frequency", np.array([800, 150, 0, 50]), np.array([4, 3, 0, 1]), 4)
    assert weights == pytest.approx([1000 / 2400, 1000 / 450, 0, 1000 / 150], rel=1e-3)


def test_effective_numbers_count_photos():
    weights = weights_by_rule("effective", np.array([800, 150, 0, 50]), np.array([4, 3, 0, 1]), 4)
    numbers = np.array([(1 - 0.75**4) / 0.25, (1 - 0.75**3) / 0.25, 1])
    expected = 3 / numbers / (1 / numbers).sum()
    assert [weights[0], weights[1], weights[3]] == pytest.approx(expected.tolist(), rel=1e-3) and weights[2] == 0
    assert weights_by_rule("effective", np.array([7, 3]), np.array([1, 1]), 1) == [1, 1]


def test_pixels_and_photos_of_the_classes_are_counted(tmp_path):
    write_data(tmp_path / "data", 3, 20, 30, ["a", "b", "c", "d"])
    data = load_segmentation_data(tmp_path / "data", "train")
    maps = [data.read(row).label_map for row in data.undecoded]
    pixels, photos = count_classes(data)
    assert pixels.tolist() == [sum(int((label_map == index).sum()) for label_map in maps) for index in range(4)]
    assert photos.tolist() == [3, 3, 3, 3]


def test_a_binary_model_is_trained_with_a_sum_of_losses_and_weights_from_the_data(train, tmp_path):
    options = ("--binary", "--loss", "binary_cross_entropy", "dice=0.5", "--class-weights", "inverse-frequency")
    status, text, config = train(*options, "--label-smoothing", 0.1, "--config", json.dumps(SMALL))
    assert status == 0, text
    assert (config.num_labels, config.id2label) == (1, {0: "class 0", 1: "class 1"})
    assert config.semantic_loss == {"binary_cross_entropy": 1.0, "dice": 0.5}
    pixels, photos = count_classes(load_segmentation_data(tmp_path / "data", "train"))
    assert config.semantic_loss_class_weights == weights_by_rule("inverse-frequency", pixels, photos, 2)
    assert config.semantic_loss_label_smoothing == 0.1
    assert "class weights" in text and f"class 0 {config.semantic_loss_class_weights[0]}" in text
    card = (tmp_path / "out/README.md").read_text()
    assert "1 × binary cross entropy + 0.5 × dice" in card and "label smoothing" in card

    # Further, from what was saved: its losses stay, unless others are asked for.
    status, text, further = train("--model", tmp_path / "out", "--class-weights", "none", folder="further")
    assert status == 0, text
    assert (further.semantic_loss, further.semantic_loss_class_weights) == (config.semantic_loss, None)
    status, text, _ = train("--model", tmp_path / "out", "--loss", "cross_entropy", folder="other")
    assert status == 2 and "semantic_loss holds cross_entropy, but with num_labels=1" in text
    status, text, other = train(
        "--model", tmp_path / "out", "--reinitialize-classifier", "--class-weights", 1, 2, folder="new"
    )
    assert status == 0, text
    assert (other.num_labels, other.semantic_loss_class_weights) == (1, [1, 2])


def test_classes_and_weights_that_do_not_fit_the_data_are_refused(train):
    network = ("--config", json.dumps(SMALL))
    for options, message in [
        ((*network, "--binary"), "the data has 3 classes, but the model would have 2"),
        (("--config", json.dumps(SMALL | {"num_labels": 1})), "the data has 3 classes, but the model would have 2"),
        ((*network, "--class-weights", 1, 2), "one for each of 3 classes, got 2"),
        ((*network, "--loss", "binary_cross_entropy"), "holds binary_cross_entropy, but"),
    ]:
        status, text, _ = train(*options, num_classes=3)
        assert status == 2 and message in text


def test_options_override_the_recipes_losses(tmp_path):
    recipe = tmp_path / "mine.yaml"
    recipe.write_text(
        "loss: [cross_entropy=1, dice=0.5]\nclass_weights: inverse-frequency\nlabel_smoothing: 0.1\nbinary: true\n"
    )
    arguments = ["--recipe", str(recipe), "--dry-run"]
    options = parse_command(arguments).options
    assert (options.loss, options.class_weights) == (["cross_entropy=1", "dice=0.5"], ["inverse-frequency"])
    assert (options.label_smoothing, options.binary) == (0.1, True)
    command = parse_command([*arguments, "--loss", "focal", "cross_entropy", "--class-weights", "1", "2"])
    assert (command.options.loss, command.options.class_weights) == (["focal", "cross_entropy"], ["1", "2"])
    assert set(command.overridden) == {"loss", "class_weights"}
