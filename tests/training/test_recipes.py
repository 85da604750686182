"""The recipes against a second reading of the sources, and what is computed from them."""

import json
import os
import subprocess

import pytest
from accelerate.commands.config.config_args import load_config_from_file
from paths import ROOT

from setr_hf import SetrConfig, SetrForSemanticSegmentation
from setr_hf.data.public_datasets import CLASS_NAMES
from setr_hf.errors import SetrError
from setr_hf.tables import print_options
from setr_hf.training.description import describe
from setr_hf.training.options import new_config, parse_command
from setr_hf.training.recipes import all_recipes, find_recipe
from setr_hf_cli import find_scripts, load_script


RECIPES = all_recipes()


# Read off the configuration files of the original repository (those without _MS) and the tables of its README:
# file | depth | auxiliary layers | base rate | mean IoU at one scale | at several.
ORIGINAL = """
SETR_Naive_512x512_160k_ade20k_bs_16           24 10,15,20    0.01  48.06 48.80
SETR_MLA_512x512_160k_ade20k_bs_8              24 6,12,18,24  0.001 47.79 50.03
SETR_MLA_512x512_160k_ade20k_bs_16             24 6,12,18,24  0.001 48.64 50.28
SETR_MLA_DeiT_512x512_160k_ade20k_bs_16        12 3,6,9,12    0.001 46.15 47.71
SETR_PUP_512x512_160k_ade20k_bs_16             24 10,15,20,24 0.001 48.62 50.09
SETR_PUP_DeiT_512x512_160k_ade20k_bs_16        12 5,8,10,12   0.001 46.34 47.30
SETR_Naive_480x480_80k_pascal_context_bs_16    24 10,15,20    0.01  52.89 53.61
SETR_MLA_480x480_80k_pascal_context_bs_8       24 6,12,18,24  0.001 54.39 55.39
SETR_MLA_480x480_80k_pascal_context_bs_16      24 6,12,18,24  0.001 55.01 55.83
SETR_MLA_DeiT_480x480_80k_pascal_context_bs_16 12 3,6,9,12    0.001 52.91 53.74
SETR_PUP_480x480_80k_pascal_context_bs_16      24 10,15,20,24 0.001 54.37 55.27
SETR_PUP_DeiT_480x480_80k_pascal_context_bs_16 12 5,8,10,12   0.001 52.00 52.50
SETR_Naive_768x768_40k_cityscapes_bs_8         24 10,15,20    0.01  77.37 None
SETR_Naive_768x768_80k_cityscapes_bs_8         24 10,15,20    0.01  77.90 None
SETR_MLA_768x768_40k_cityscapes_bs_8           24 6,12,18,24  0.002 76.65 None
SETR_MLA_768x768_80k_cityscapes_bs_8           24 6,12,18,24  0.002 77.24 None
SETR_PUP_768x768_40k_cityscapes_bs_8           24 10,15,20,24 0.01  78.39 None
SETR_PUP_768x768_80k_cityscapes_bs_8           24 10,15,20,24 0.01  79.34 None
SETR_Naive_Base_768x768_40k_cityscapes_bs_8    12 3,6,9       0.01  75.54 None
SETR_Naive_Base_768x768_80k_cityscapes_bs_8    12 3,6,9       0.01  76.25 None
SETR_Naive_DeiT_768x768_40k_cityscapes_bs_8    12 3,6,9       0.01  77.85 None
SETR_Naive_DeiT_768x768_80k_cityscapes_bs_8    12 3,6,9       0.01  78.66 None
SETR_MLA_DeiT_768x768_40k_cityscapes_bs_8      12 3,6,9,12    0.002 78.04 None
SETR_MLA_DeiT_768x768_80k_cityscapes_bs_8      12 3,6,9,12    0.002 78.98 None
SETR_PUP_DeiT_768x768_40k_cityscapes_bs_8      12 5,8,10,12   0.01  78.79 None
SETR_PUP_DeiT_768x768_80k_cityscapes_bs_8      12 5,8,10,12   0.01  79.45 None
"""
DATA_SETS = {"ade20k": (150, 341), "pascal_context": (60, 320), "cityscapes": (19, 512)}
# Of training and testing: the short side, and the limit of the long one.
SIZES = {
    "ade20k": ([512, 2048], [512, 2048]),
    "pascal_context": ([520, 520], [520]),
    "cityscapes": ([1025, 2049], [1025, 2049]),
}
ENCODERS = {
    "large": "google/vit-large-patch16-384",
    "base": "google/vit-base-patch16-384",
    "deit": "facebook/deit-base-distilled-patch16-384",
}
KINDS = ("single_scale", "multi_scale")
# mmsegmentation's files by our names.
MMSEG = {
    "mmseg-setr-naive-large-ade20k-b16": "setr_vit-l_naive_8xb2-160k_ade20k-512x512",
    "mmseg-setr-pup-large-ade20k-b16": "setr_vit-l_pup_8xb2-160k_ade20k-512x512",
    "mmseg-setr-mla-large-ade20k-b8": "setr_vit-l-mla_8xb1-160k_ade20k-512x512",
    "mmseg-setr-mla-large-ade20k-b16": "setr_vit-l_mla_8xb2-160k_ade20k-512x512",
    "mmseg-setr-naive-large-cityscapes-80k": "setr_vit-l_naive_8xb1-80k_cityscapes-768x768",
    "mmseg-setr-pup-large-cityscapes-80k": "setr_vit-l_pup_8xb1-80k_cityscapes-768x768",
    "mmseg-setr-mla-large-cityscapes-80k": "setr_vit-l_mla_8xb1-80k_cityscapes-768x768",
}
READ_MMSEG = """
import json, pathlib, mmseg, yaml
from mmengine.config import Config
folder = pathlib.Path(mmseg.__file__).parent / ".mim/configs/setr"
models = yaml.safe_load((folder / "metafile.yaml").read_text())["Models"]
results = {model["Name"]: model["Results"]["Metrics"] for model in models}
files = {}
for path in folder.glob("*.py"):
    config = Config.fromfile(path)
    files[path.stem] = {"results": results[path.stem], **{
        name: config[name] for name in
        ("model", "optim_wrapper", "param_scheduler", "train_cfg", "train_dataloader", "test_dataloader")
    }}
print("JSON" + json.dumps(files))
"""


def network(recipe) -> SetrConfig:
    """The network that the train job makes by a recipe."""
    return new_config(options("--recipe", recipe.name), num_labels=recipe.num_labels or 11)


def by_name_of_file(file: str):
    """Our recipe of a file of the original repository, by the parts of its name."""
    decoder, *encoder, crop, iterations, rest = file.removeprefix("SETR_").split(
        "_", 4 if "DeiT" in file or "Base" in file else 3
    )
    dataset, batch = rest.split("_bs_")
    variant = iterations if dataset == "cityscapes" else f"b{batch}"
    encoder = encoder[0].lower() if encoder else "large"
    name = f"setr-{decoder.lower()}-{encoder}-{dataset.replace('_', '-')}-{variant}"
    return RECIPES[name], dataset, encoder, int(crop.split("x")[0]), 1000 * int(iterations[:-1]), int(batch)


def test_there_are_26_recipes_of_the_original_repository_7_of_mmsegmentation_and_4_of_ours():
    origins = [recipe.origin for recipe in RECIPES.values()]
    count = {origin: origins.count(origin) for origin in set(origins)}
    assert count == {"original": 26, "mmsegmentation": 7, "setr-hf": 4}
    assert all(name == recipe.name for name, recipe in RECIPES.items())
    assert len({by_name_of_file(row.split()[0])[0].name for row in ORIGINAL.strip().splitlines()}) == 26
    assert set(MMSEG) == {name for name, recipe in RECIPES.items() if recipe.origin == "mmsegmentation"}


@pytest.mark.parametrize("row", ORIGINAL.strip().splitlines(), ids=lambda row: row.split()[0])
def test_a_recipe_says_what_the_original_file_says(row):
    file, depth, auxiliary, rate, *results = row.split()
    recipe, dataset, encoder, crop, iterations, batch = by_name_of_file(file)
    arguments, config = recipe.options, network(recipe)
    assert recipe.origin == "original"
    results = {kind: float(result) for kind, result in zip(KINDS, results) if result != "None"}
    assert recipe.published == results
    assert recipe.classes == dataset
    assert (recipe.num_labels, arguments["stride"]) == DATA_SETS[dataset]
    assert (arguments["size"], arguments["test_size"]) == SIZES[dataset]
    assert arguments["crop_size"] == list(config.image_size) == [crop, crop]
    assert arguments["global_batch_size"] == batch
    assert arguments["encoder"] == ENCODERS[encoder]
    assert (arguments["min_scale"], arguments["max_scale"]) == (0.5, 2.0)
    assert arguments["category_max_ratio"] == 0.75
    assert arguments["photometric_distortion"]
    assert config.num_hidden_layers == int(depth)
    assert config.hidden_size == {24: 1024, 12: 768}[int(depth)]
    assert config.num_attention_heads == config.hidden_size // 64
    assert config.intermediate_size == 4 * config.hidden_size
    assert config.auxiliary_out_indices == [int(layer) for layer in auxiliary.split(",")]
    assert config.semantic_loss_average == "all"
    assert config.hidden_dropout_prob == config.attention_probs_dropout_prob == config.drop_path_rate == 0
    assert arguments["max_steps"] == iterations
    assert arguments["learning_rate"] == float(rate)
    assert arguments["eval_steps"] * iterations == arguments["save_steps"] * iterations == iterations / 10
    assert not arguments.get("bf16") and not arguments.get("fp16")
    expected = {
        "optim": "sgd",
        "optim_args": "momentum=0.9",
        "weight_decay": 0,
        "max_grad_norm": 0,
        "head_learning_rate_ratio": 10,
        "lr_scheduler_type": "polynomial",
        "lr_scheduler_kwargs": {"power": 0.9, "min_lr": 1e-4},
    }
    assert {name: arguments[name] for name in expected} == expected


@pytest.fixture(scope="module")
def mmseg_files():
    python = os.environ.get("MMSEG_PYTHON")
    if not python:
        pytest.skip("set MMSEG_PYTHON to a Python that has mmsegmentation 1.2.2 to run this test")
    result = subprocess.run([python, "-c", READ_MMSEG], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    return json.loads(result.stdout.split("JSON", 1)[1])


@pytest.mark.parametrize("name", MMSEG)
def test_a_recipe_says_what_the_file_of_mmsegmentation_says(name, mmseg_files):
    recipe, theirs = RECIPES[name], mmseg_files[MMSEG[name]]
    arguments, config, model = recipe.options, network(recipe), theirs["model"]
    head, auxiliary, backbone = model["decode_head"], model["auxiliary_head"], model["backbone"]
    assert list(recipe.published.values()) == [theirs["results"]["mIoU"], theirs["results"]["mIoU(ms+flip)"]]
    assert recipe.num_labels == head["num_classes"]
    assert (config.hidden_size, config.num_hidden_layers) == (backbone["embed_dims"], backbone["num_layers"])
    assert list(config.image_size) == arguments["crop_size"] == backbone["img_size"]
    assert config.use_class_token == backbone["with_cls_token"]
    layers = [layer + 1 for layer in backbone["out_indices"]]
    assert config.auxiliary_out_indices == [layers[one["in_index"]] for one in auxiliary]
    indices = head["in_index"] if isinstance(head["in_index"], list) else [head["in_index"]]
    assert config.decoder_indices == [layers[index] for index in indices]
    assert {config.auxiliary_loss_weight} == {one["loss_decode"]["loss_weight"] for one in auxiliary}
    if config.decoder_type == "mla":
        assert (config.mla_align_corners, config.mla_hidden_size) == (head["align_corners"], head["mla_channels"])
        # The file says nothing else: the kernel is that of `conv_seg`, and the auxiliary heads are `conv_seg` alone.
        assert (config.mla_classifier_kernel_size, config.mla_auxiliary_bias) == (1, True)
        assert {one["num_convs"] for one in auxiliary} == {0}
    else:
        ours = (config.decoder_num_convs, config.decoder_kernel_size, config.decoder_scale_factor)
        assert ours == (head["num_convs"], head["kernel_size"], head["up_scale"])
        ours = (config.auxiliary_num_convs, config.decoder_kernel_size, config.auxiliary_scale_factor)
        # 4 is the default of `up_scale` in the head.
        assert {(one["num_convs"], one["kernel_size"], one.get("up_scale", 4)) for one in auxiliary} == {ours}

    wrapper = theirs["optim_wrapper"]
    assert wrapper["optimizer"] == {
        "type": "SGD", "lr": arguments["learning_rate"], "momentum": 0.9, "weight_decay": arguments["weight_decay"]
    }  # fmt: skip
    assert arguments["optim_args"] == "momentum=0.9"
    assert wrapper.get("clip_grad") is None and arguments["max_grad_norm"] == 0
    assert wrapper["paramwise_cfg"]["custom_keys"] == {"head": {"lr_mult": arguments["head_learning_rate_ratio"]}}
    (schedule,) = theirs["param_scheduler"]
    assert schedule["type"] == "PolyLR" and schedule["end"] == arguments["max_steps"]
    settings = {"power": schedule["power"], "min_lr": schedule["eta_min"]}
    assert settings == arguments["lr_scheduler_kwargs"]
    assert theirs["train_cfg"]["max_iters"] == arguments["max_steps"]
    assert theirs["train_cfg"]["val_interval"] == arguments["eval_steps"] * arguments["max_steps"]
    assert 8 * theirs["train_dataloader"]["batch_size"] == arguments["global_batch_size"]
    pipeline = {step["type"]: step for step in theirs["train_dataloader"]["dataset"]["pipeline"]}
    assert sorted(pipeline["RandomResize"]["scale"]) == arguments["size"]
    assert list(pipeline["RandomResize"]["ratio_range"]) == [arguments["min_scale"], arguments["max_scale"]]
    assert list(pipeline["RandomCrop"]["crop_size"]) == arguments["crop_size"]
    assert pipeline["RandomCrop"]["cat_max_ratio"] == arguments["category_max_ratio"]
    assert "PhotoMetricDistortion" in pipeline and arguments["photometric_distortion"]
    test = {step["type"]: step for step in theirs["test_dataloader"]["dataset"]["pipeline"]}
    assert sorted(test["Resize"]["scale"]) == arguments["test_size"]
    assert model["test_cfg"]["stride"] == [arguments["stride"]] * 2


def test_mmsegmentations_results_are_those_of_its_metafile():
    results = [tuple(RECIPES[name].published[kind] for kind in KINDS) for name in MMSEG]
    assert results == [
        (48.28, 49.56), (48.24, 49.99), (47.34, 49.05), (47.39, 49.37), (78.10, 80.22), (79.21, 81.02), (77.00, 79.59)
    ]  # fmt: skip


@pytest.mark.parametrize("decoder_type", ["naive", "pup", "mla"])
def test_our_own_runs_fit_a_laptop(decoder_type):
    recipe = RECIPES[f"setr-{decoder_type}-small-camvid"]
    model = SetrForSemanticSegmentation(network(recipe))
    assert model.config.decoder_type == decoder_type
    assert model.num_parameters() < 12e6
    assert recipe.options["encoder"] is None and recipe.classes is None and recipe.published == {}


def test_an_unknown_name_is_answered_with_close_ones():
    with pytest.raises(SetrError, match="setr-mla-large-ade20k-b16"):
        find_recipe("setr-mla-large-ade-b16")
    with pytest.raises(SetrError, match="setr-naive-large-cityscapes-80k"):
        find_recipe("?")


def options(*argv):
    return parse_command(["--dry-run", *argv]).options


RECIPE = ("--recipe", "setr-pup-large-cityscapes-80k")


def test_a_recipe_sets_the_defaults_and_any_option_overrides_it():
    assert (options(*RECIPE).max_steps, options(*RECIPE).learning_rate) == (80_000, 0.01)
    changed = options(*RECIPE, "--max-steps", "10", "--crop-size", "64", "96", "--lr-scheduler-kwargs", '{"power": 1}')
    assert (changed.max_steps, changed.crop_size, changed.lr_scheduler_kwargs) == (10, [64, 96], '{"power": 1}')
    assert changed.learning_rate == 0.01
    assert options("--model", "x").optim != "sgd"


def test_what_an_override_leaves_without_meaning_goes_with_it():
    assert options(*RECIPE, "--optim", "adamw_torch").optim_args is None
    assert options(*RECIPE, "--optim", "sgd").optim_args == "momentum=0.9"
    assert options(*RECIPE, "--lr-scheduler-type", "cosine").lr_scheduler_kwargs is None
    epochs = options(*RECIPE, "--num-train-epochs", "3")
    assert (epochs.max_steps, epochs.num_train_epochs) == (-1, 3)
    assert not options(*RECIPE, "--dataloader-num-workers", "0").dataloader_persistent_workers
    assert options(*RECIPE, "--model", "x").encoder is None


def test_the_batch_of_a_recipe_is_global(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "4")
    split = options(*RECIPE)
    assert (split.per_device_train_batch_size, split.gradient_accumulation_steps) == (2, 1)
    split = options(*RECIPE, "--gradient-accumulation-steps", "2")
    assert (split.per_device_train_batch_size, split.gradient_accumulation_steps) == (1, 2)
    split = options(*RECIPE, "--per-device-train-batch-size", "3", "--global-batch-size", "24")
    assert (split.per_device_train_batch_size, split.gradient_accumulation_steps) == (3, 2)
    with pytest.raises(SetrError, match="per device 3"):
        options(*RECIPE, "--per-device-train-batch-size", "3")


def summary(*argv):
    return dict(describe(parse_command(["--dry-run", *argv])))


def test_the_summary_says_what_will_be_done(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "8")
    text = summary("--recipe", "setr-mla-large-ade20k-b16")
    expected = {
        "recipe": "setr-mla-large-ade20k-b16 (original)",
        "published mean IoU": "48.64 % single scale, 50.28 % multi scale",
        "classes": "the 150 of ade20k",
        "encoder": "google/vit-large-patch16-384",
        "decoder": "mla on layer 6, 12, 18, 24",
        "crop_size": "512 512",
        "stride": "341",
        "min_scale": "0.5",
        "max_scale": "2.0",
        "category_max_ratio": "0.75",
        "loss_average": "all",
        "max_steps": "160000",
        "batch": "16 = processes 8 × per device 2 × accumulation 1",
        "optim": "sgd",
        "optim_args": "momentum=0.9",
        "rate at start, half, end": "0.001 → 0.000582 → 0.0001",
        "the same of the heads": "0.01 → 0.00541 → 0.0001",
        "eval_steps": "16000",
        "save_steps": "16000",
        "precision": "fp32",
    }
    assert {name: text.get(name) for name in expected} == expected
    assert not any("recipe:" in str(value) for value in text.values())


def test_the_summary_marks_what_overrides_the_recipe():
    options = (
        "--global-batch-size",
        "2",
        "--use-cpu",
        "--max-steps",
        "1000",
        "--config",
        '{"auxiliary_loss_weight": 1}',
    )
    text = summary("--recipe", "setr-mla-large-ade20k-b16", *options, "--bf16")
    assert text["batch"] == "2 = processes 1 × per device 2 × accumulation 1"
    assert text["global_batch_size"] == "2  (recipe: 16)"
    assert text["max_steps"] == "1000  (recipe: 160000)"
    assert text["eval_steps"] == "100"
    assert "bf16" in text["precision"]
    assert "auxiliary_loss_weight" in text["config"] and "(recipe: " in text["config"]


@pytest.mark.parametrize("name", RECIPES)
def test_the_summary_of_every_recipe_is_printed(name, capsys):
    print_options(describe(parse_command(["--dry-run", "--recipe", name, "--use-cpu"])))
    text = capsys.readouterr().out
    assert text.startswith("recipe ") and name in text.splitlines()[0]
    assert all(f"{value:.2f}" in text for value in RECIPES[name].published.values())


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_that_is_printed_to_a_file_is_the_same_recipe(name, tmp_path):
    path = tmp_path / f"{name}.yaml"
    path.write_text(RECIPES[name].to_yaml())
    assert find_recipe(str(path)) == RECIPES[name]


def test_an_edited_recipe_is_followed(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text(RECIPES[RECIPE[1]].to_yaml().replace("max_steps: 80000", "max_steps: 123"))
    changed = options("--recipe", str(path), "--learning-rate", "0.5", "--config", '{"num_hidden_layers": 12}')
    assert (changed.max_steps, changed.learning_rate, changed.crop_size) == (123, 0.5, [768, 768])
    assert changed.config == {"decoder_type": "pup", "num_hidden_layers": 12}
    assert changed.output_dir == "outputs/train/mine"


@pytest.mark.parametrize(
    ("content", "named"),
    [
        ("max_step: 5", ["mine", "'max_step'", "'max_steps'"]),
        ("clases: ade20k", ["'clases'", "'classes'"]),
        ("recipe: setr-mla-large-ade20k-b16", ["'recipe'"]),
        ("classes: ade", ["classes", "'ade'", "cityscapes"]),
        ("config: pup", ["config", "'pup'"]),
        ("config: {hiden_size: 3}", ["hiden_size"]),
        ("crop_size: [1, 2", ["mine.yaml", "not valid YAML", "line 1"]),
        ("- 1", ["mine.yaml", "mapping"]),
        ("max_steps: 1\nmax_steps: 2", ["'max_steps' occurs twice", "line 1"]),
        ("a: !!python/object/apply:os.system ['true']", ["mine.yaml", "could not determine a constructor"]),
        ("a: &a [*a]", ["more than 10,000 values"]),
        ("config: " + "[" * 5000, ["mine.yaml", "recursion"]),
        ("published: {single_scale: high}", ["published single_scale", "'high'"]),
        (None, ["mine.yaml", "does not exist"]),
    ],
)
def test_a_recipe_that_cannot_be_followed_is_refused_in_a_line(tmp_path, content, named):
    path = tmp_path / "mine.yaml"
    if content is not None:
        path.write_text(content)
    with pytest.raises(SetrError) as error:
        describe(parse_command(["--dry-run", "--use-cpu", "--recipe", str(path)]))
    assert all(text in str(error.value) for text in named), error.value
    assert "\n" not in str(error.value)


def test_recipes_are_listed_with_their_results(capsys):
    job = load_script(find_scripts()["recipes"]).main
    assert job([]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 1 + len(RECIPES)
    row = next(line.split() for line in lines if line.startswith("setr-mla-large-ade20k-b16 "))
    assert row == ["setr-mla-large-ade20k-b16", "original", "ade20k", "48.64", "50.28"]
    assert job(["setr-mla-large-ade20k-b16"]) == 0
    assert capsys.readouterr().out == RECIPES["setr-mla-large-ade20k-b16"].to_yaml()


def test_recipes_of_data_sets_have_known_classes():
    assert {recipe.classes for recipe in RECIPES.values()} - {None} <= set(CLASS_NAMES)


@pytest.mark.parametrize(
    ("file", "processes", "machines", "kind"),
    [
        ("one_gpu", 1, 1, "NO"),
        ("eight_gpus", 8, 1, "MULTI_GPU"),
        ("multi_node", 16, 2, "MULTI_GPU"),
        ("fsdp2", 8, 1, "FSDP"),
    ],
)
def test_accelerate_reads_our_configurations(file, processes, machines, kind):
    config = load_config_from_file(str(ROOT / f"scripts/accelerate/{file}.yaml"))
    assert (config.num_processes, config.num_machines, config.distributed_type.value) == (processes, machines, kind)
    # Else the job's own --bf16 and --fp16 would not be the only say.
    assert config.mixed_precision == "no"
    assert not config.use_cpu
    if kind == "FSDP":
        assert config.fsdp_config["fsdp_version"] == 2
        # Not every network has every class of `_no_split_modules`, which accelerate would ask for.
        assert config.fsdp_config["fsdp_transformer_layer_cls_to_wrap"] == "SetrLayer"
        # `Trainer.save_model` saves nothing from sharded ones.
        assert config.fsdp_config["fsdp_state_dict_type"] == "FULL_STATE_DICT"
