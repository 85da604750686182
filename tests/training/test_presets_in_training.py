"""`--preset`, `--stem` and what a step costs, in the train job."""

import json

import pytest
import torch
from small_stems import SMALL_STEMS
from transformers import ResNetConfig, ResNetForImageClassification, ViTConfig, ViTModel

from setr_hf import SetrConfig, SetrForSemanticSegmentation, SetrTrainingArguments, plan_memory
from setr_hf.errors import SetrError
from setr_hf.model.presets_setr import PRESETS
from setr_hf.training.cost import matmul_rate, network_cost
from setr_hf.training.description import describe
from setr_hf.training.options import new_config, parse_command
from setr_hf.training.recipes import all_recipes
from setr_hf.training.simulation import Simulation, StepSettings
from setr_hf_cli import find_scripts, load_script


SMALL = {"hidden_size": 32, "num_hidden_layers": 4, "num_attention_heads": 2, "intermediate_size": 64}
SMALL |= {"decoder_hidden_size": 16, "mla_hidden_size": 8}
DRY = ["--dry-run", "--use-cpu"]


def config_of(*arguments):
    return new_config(parse_command([*DRY, "--crop-size", "512", *arguments]).options)


def test_a_preset_is_overridden_by_config_and_overrides_a_recipe(tmp_path):
    config = config_of("--preset", "tiny", "--config", '{"decoder_type": "pup", "num_hidden_layers": 6}')
    assert (config.hidden_size, config.num_hidden_layers, config.decoder_hidden_size) == (192, 6, 64)
    config = config_of("--preset", "tiny", "--recipe", "setr-pup-small-camvid")
    assert (config.decoder_type, config.num_hidden_layers, config.decoder_hidden_size) == ("pup", 12, 64)
    recipe = tmp_path / "mine.yaml"
    recipe.write_text("preset: small\nconfig: {num_hidden_layers: 2}\n")
    config = config_of("--recipe", str(recipe))
    assert (config.hidden_size, config.num_hidden_layers) == (384, 2)
    config = config_of("--recipe", str(recipe), "--preset", "tiny")
    assert (config.hidden_size, config.num_hidden_layers) == (192, 12)
    assert config_of("--preset", "hybrid").stem_config.output_stride == 16
    assert config_of("--recipe", "setr-pup-large-ade20k-b16").hidden_size == config_of().hidden_size == 1024


def test_public_weights_are_used_only_when_asked_for():
    assert parse_command([*DRY, "--preset", "hybrid"]).options.encoder is None
    # Not those of the recipe, which would not fit.
    assert parse_command([*DRY, "--recipe", "setr-pup-large-ade20k-b16", "--preset", "tiny"]).options.encoder is None
    options = parse_command([*DRY, "--preset", "hybrid", "--encoder", "pretrained"]).options
    assert (options.encoder, options.stem) == ("google/vit-base-patch16-384", "microsoft/resnet-50")
    options = parse_command([*DRY, "--preset", "hybrid", "--encoder", "pretrained", "--stem", "mine"]).options
    assert options.stem == "mine"
    rows = dict(describe(parse_command([*DRY, "--preset", "hybrid", "--encoder", "pretrained"])))
    assert (rows["preset"], rows["stem"]) == ("hybrid", "microsoft/resnet-50")
    assert rows["encoder"] == "google/vit-base-patch16-384" and "resnet" in rows["stem network"]


def test_the_presets_of_the_paper_know_the_encoders_of_its_recipes():
    used = {recipe.options.get("encoder") for recipe in all_recipes().values()} - {None}
    assert used == {PRESETS[name].encoder for name in ("t-large", "t-base", "deit")}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--preset", "tinny"], "there is no preset 'tinny': did you mean tiny"),
        (["--preset", ""], "--preset is empty"),
        (["--preset", "tiny", "--model", "mine"], "--preset describes a new model: leave it out with --model"),
        (["--stem", "mine", "--model", "mine"], "--stem describes a new model"),
        (["--stem", ""], "--stem is empty"),
        (["--preset", "hybrid", "--stem", "mine"], "--stem mine belongs to --encoder"),
        (["--encoder", "pretrained"], "--encoder pretrained belongs to --preset"),
        (["--preset", "tiny", "--config", '{"hidden_size": 100}'], "100 is not divisible by num_attention_heads 3"),
        (["--preset", "hybrid", "--config", '{"stem_config": {"depths": [1]}}'], "stem_config has no model_type"),
    ],
)
def test_presets_that_contradict_other_options_are_refused(arguments, message):
    with pytest.raises(SetrError, match=message) as error:
        describe(parse_command([*DRY, *arguments]))
    assert "\n" not in str(error.value)


def test_a_hybrid_is_trained_from_the_weights_of_two_folders(scene_folder, tmp_path, capsys):
    fields = {name: SMALL[name] for name in ("hidden_size", "num_hidden_layers", "num_attention_heads")}
    vit = ViTConfig(**fields, intermediate_size=64, image_size=64)
    ViTModel(vit, add_pooling_layer=False).save_pretrained(tmp_path / "vit")
    resnet = ResNetConfig.from_dict(SMALL_STEMS["resnet"])
    ResNetForImageClassification(resnet).save_pretrained(tmp_path / "resnet")
    config = json.dumps(SMALL | {"decoder_type": "pup", "stem_config": SMALL_STEMS["resnet"]})
    command = ["--dataset", scene_folder, "--preset", "hybrid", "--config", config, "--encoder", tmp_path / "vit"]
    command += ["--stem", tmp_path / "resnet", "--crop-size", 64, "--max-steps", 2, "--use-cpu"]
    command += ["--per-device-train-batch-size", 2, "--num-prediction-pictures", 0, "--disable-tqdm", "true"]
    job = load_script(find_scripts()["train"]).main
    assert job([str(part) for part in [*command, "--output-dir", tmp_path / "out"]]) == 0
    out = capsys.readouterr().out
    assert "RANDOM: the projection of its features" in out
    assert "M parameters; a step of 2 samples takes" in out and "on this CPU" in out
    model = SetrForSemanticSegmentation.from_pretrained(tmp_path / "out")
    assert model.config.stem_config.model_type == "resnet"


def test_random_weights_and_slow_steps_are_hinted_at(tmp_path, monkeypatch):
    from setr_hf.training import cost

    arguments = SetrTrainingArguments(str(tmp_path), report_to=[], use_cpu=True, per_device_train_batch_size=2)
    plan = plan_memory(SetrConfig(**SMALL, image_size=64), arguments, "100GB")

    def rows(*options):
        return dict(cost.cost_rows(parse_command([*DRY, *options]), 5 * 10**6, arguments, plan))

    assert rows()["cost"].startswith("5.0 M parameters; a step of 2 samples takes 0.01 GFLOP, at least 0.00 s on")
    assert "--preset tiny --encoder pretrained" in rows()["hint"]
    assert rows("--preset", "tiny")["hint"].endswith("--encoder pretrained starts from public ones")
    assert "hint" not in rows("--encoder", "mine") and "hint" not in rows("--model", "mine")
    assert "hint" not in rows("--backbone", "mine")
    assert "hint" not in rows("--recipe", "setr-mla-small-camvid")
    monkeypatch.setattr(cost, "SLOW_SECONDS", 0)
    assert "--preset small or tiny" in rows("--encoder", "mine")["hint"]
    assert dict(cost.cost_rows(parse_command(DRY), 10**6, arguments, None))["cost"] == "1.0 M parameters"
    assert matmul_rate(torch.float32) > 10**6


def test_the_operations_of_a_step_are_those_of_its_formulas(tmp_path):
    """Those of the products in the forward pass, and twice as many in the backward pass."""
    config = SetrConfig(**SMALL, decoder_type="naive", auxiliary_out_indices=[], image_size=64, num_labels=3)
    arguments = SetrTrainingArguments(str(tmp_path), report_to=[], use_cpu=True)
    simulation = Simulation(config, (64, 64), arguments, "cpu")
    tokens, width, pixels = 17, 32, 16
    layer = tokens * (4 * width**2 + 2 * width * 64) + 2 * tokens**2 * width
    head = pixels * (width * 16 + 16 * 3)
    patches = pixels * width * 3 * 16**2
    forward = 2 * (patches + 4 * layer + head)
    assert network_cost(config)[1] == forward
    # Images have no gradient. Some attentions compute their scores again in the backward pass.
    expected, scores = 3 * forward - 2 * patches, 4 * 2 * tokens**2 * width
    measured = simulation.step_operations(StepSettings(1))
    assert measured in (expected, expected + scores)
    assert simulation.step_operations(StepSettings(2, accumulation=3)) == pytest.approx(6 * measured, rel=0.02)
    repeated = simulation.step_operations(StepSettings(1, gradient_checkpointing=True))
    # All of a layer but its last product, which nothing needs.
    assert repeated - measured == 2 * 4 * (layer - tokens * width * 64)


def test_presets_are_listed_with_their_costs(capsys):
    job = load_script(find_scripts()["recipes"]).main
    assert job(["--presets", "small", "tiny", "--num-labels", "3", "--size", "64"]) == 0
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert [line[:4] for line in lines[1:]] == [["small", "12", "384", "6"], ["tiny", "12", "192", "3"]]
    assert "5.5 M, 0 GFLOP" in " ".join(lines[2]) and PRESETS["tiny"].encoder in lines[2]
    with pytest.raises(SetrError, match="there is no preset 'tinny': did you mean tiny"):
        job(["--presets", "tinny"])
