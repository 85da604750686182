"""LoRA adapters: which layers have them, what is trained and saved, and that they merge to what was trained."""

import json
import shutil
import sys

import pytest
import torch
import transformers
from distributed_training import make_trainer
from huggingface_hub import ModelCard
from packaging.version import Version
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import (
    AutoBackbone,
    AutoModelForSemanticSegmentation,
    BeitConfig,
    Dinov2Config,
    DINOv3ViTConfig,
    TimmBackboneConfig,
    Trainer,
    VitDetConfig,
    pipeline,
)

from setr_hf import SetrConfig, SetrForSemanticSegmentation, SetrTrainingArguments, add_lora, merge_adapter
from setr_hf.data.examples import collate
from setr_hf.errors import SetrError
from setr_hf.training.adapters import encoder_digest, layer_linears, lora_rows, merged, save_adapter
from setr_hf.training.output_folder import checkpoint_bytes


SIZES = {"hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 2, "patch_size": 16, "image_size": 64}
# Each with the linear layers that one of its transformer layers has.
BACKBONES = {
    "dinov2": (Dinov2Config(**SIZES), 6),
    "dinov3": (DINOv3ViTConfig(**SIZES, intermediate_size=64), 6),
    "beit": (BeitConfig(**SIZES, intermediate_size=64), 6),
    "vitdet": (VitDetConfig(**SIZES), 4),
}


@pytest.fixture
def adapted(tiny_model, tmp_path):
    """A function that makes a model with adapters that are not 0 and heads that have changed, and saves its base."""

    def make(rank=2, **fields):
        tiny_model(**fields).save_pretrained(tmp_path / "base")
        model = add_lora(SetrForSemanticSegmentation.from_pretrained(tmp_path / "base"), rank).eval()
        with torch.no_grad():
            for weight in model.parameters():
                if weight.requires_grad:
                    weight.add_(0.1 * torch.randn_like(weight))
            for name, buffer in model.named_buffers():
                if name.endswith("running_mean") and ".modules_to_save." in name:
                    buffer.add_(0.1)
        return model

    return make


def outputs(model, images):
    with torch.no_grad():
        found = model(pixel_values=images, output_auxiliary_logits=True)
    return [found.logits, *found.auxiliary_logits]


@pytest.mark.parametrize("decoder_type", ["naive", "pup", "mla"])
def test_adapters_merge_into_the_model_that_was_trained(adapted, tmp_path, decoder_type):
    """As it is, saved, from the adapter and its base, and as Transformers loads adapters."""
    model, images = adapted(decoder_type=decoder_type), torch.rand(2, 3, 48, 80)
    expected, base = outputs(model, images), SetrForSemanticSegmentation.from_pretrained(tmp_path / "base")
    assert not any(torch.allclose(*pair, atol=1e-2) for pair in zip(outputs(base, images), expected))
    frozen = encoder_digest(model)
    whole = merged(model)
    assert type(whole) is SetrForSemanticSegmentation and encoder_digest(model) == frozen
    whole.save_pretrained(tmp_path / "whole")
    save_adapter(model, tmp_path / "adapter")
    assert sorted(path.name for path in (tmp_path / "adapter").iterdir()) == [
        "adapter_config.json",
        "adapter_model.safetensors",
        "network.json",
    ]
    others = [
        whole,
        AutoModelForSemanticSegmentation.from_pretrained(tmp_path / "whole"),
        merge_adapter(tmp_path / "adapter"),
        merge_adapter(tmp_path / "adapter", base=base),
    ]
    # Transformers 5.17 reports the heads that an adapter holds as missing, and makes new ones.
    if Version(transformers.__version__) >= Version("5.24"):
        others.append(AutoModelForSemanticSegmentation.from_pretrained(tmp_path / "adapter"))
    for other in others:
        for found, logits in zip(outputs(other, images), expected):
            torch.testing.assert_close(found, logits, rtol=0, atol=1e-6 * float(logits.abs().max()))
    again = merge_adapter(tmp_path).state_dict()
    assert all(tensor.equal(again[name]) for name, tensor in whole.state_dict().items())


@pytest.mark.parametrize(
    ("width", "layers", "rank"), [(1024, 24, 8), (768, 12, 8), (384, 12, 4)], ids=["ViT-L", "ViT-B", "ViT-S"]
)
@pytest.mark.parametrize("decoder_type", ["pup", "mla"])
def test_less_than_3_percent_of_an_encoder_is_trained(width, layers, rank, decoder_type):
    config = SetrConfig(
        hidden_size=width,
        num_hidden_layers=layers,
        num_attention_heads=width // 64,
        intermediate_size=4 * width,
        decoder_type=decoder_type,
        out_indices=None,
    )
    with torch.device("meta"):
        model = SetrForSemanticSegmentation(config)
        encoder = sum(weight.numel() for weight in model.setr.parameters())
        heads = sum(weight.numel() for weight in model.parameters()) - encoder
        model = add_lora(model, rank)
    trained = {name: weight.numel() for name, weight in model.named_parameters() if weight.requires_grad}
    adapters = sum(count for name, count in trained.items() if ".lora_" in name)
    # A and B of four linear layers of width × width, and of two of width × 4 width.
    assert adapters == rank * layers * (4 * 2 * width + 2 * 5 * width) < 0.03 * encoder
    assert sum(trained.values()) - adapters == heads
    rows = dict(lora_rows(model))
    assert rows["LoRA"] == f"rank {rank}, alpha {rank}, on {6 * layers} linear layers of the encoder"
    assert rows["trained of the encoder"].startswith(f"{adapters:,} of {encoder:,} parameters (")
    assert rows["trained of the heads"] == f"all {heads:,} parameters"


@pytest.mark.parametrize("name", BACKBONES)
def test_the_linear_layers_of_any_encoder_are_found(name, tiny_config, tmp_path):
    """All within its transformer layers and no others; each adapter gets a gradient, and they merge."""
    backbone_config, count = BACKBONES[name]
    config = tiny_config(
        backbone_config=backbone_config, num_hidden_layers=3, decoder_type="naive", out_indices=[3],
        auxiliary_out_indices=[2],
    )  # fmt: skip
    model = SetrForSemanticSegmentation(config)
    found = layer_linears(model.backbone)
    assert len(found) == 3 * count
    assert all(model.backbone.get_submodule(path) is linear for path, linear in found.items())
    inside = {path for path, part in model.backbone.named_modules() if isinstance(part, nn.Linear)}
    assert {path for path in inside if any(f".{index}." in path for index in range(3))} == set(found)
    model.save_pretrained(tmp_path / "base")
    model = add_lora(SetrForSemanticSegmentation.from_pretrained(tmp_path / "base"), rank=2)
    images, labels = torch.rand(2, 3, 64, 64), torch.randint(5, (2, 64, 64))
    model(pixel_values=images, labels=labels).loss.backward()
    gradients = {path: weight.grad for path, weight in model.named_parameters() if "lora_B" in path}
    assert len(gradients) == 3 * count and all(gradient.any() for gradient in gradients.values())
    with torch.no_grad():
        for weight in model.parameters():
            if weight.requires_grad:
                weight.add_(0.05 * torch.randn_like(weight))
    model.eval()
    save_adapter(model, tmp_path / "adapter")
    expected = outputs(model, images)
    for whole in (merged(model), merge_adapter(tmp_path / "adapter")):
        torch.testing.assert_close(outputs(whole, images), expected, rtol=1e-5, atol=1e-5)


def test_the_linear_layers_of_an_encoder_of_timm_are_found():
    config = TimmBackboneConfig(backbone="vit_tiny_patch16_224", use_pretrained_backbone=False, out_indices=[2])
    found = layer_linears(AutoBackbone.from_config(config))
    parts = {"attn.qkv", "attn.proj", "mlp.fc1", "mlp.fc2"}
    assert {name.split("blocks.")[1] for name in found} == {f"{index}.{part}" for index in range(3) for part in parts}


def test_statistics_in_the_encoder_are_saved_with_the_adapter(tiny_model, tmp_path):
    """As of a stem of convolutions: its BatchNorm is trained, or its statistics would be lost with the base."""
    model = tiny_model(decoder_type="naive")
    model.setr.embeddings.patch_embeddings = nn.Sequential(model.setr.embeddings.patch_embeddings, nn.BatchNorm2d(32))
    model.setr.embeddings.patch_embeddings.weight = model.setr.embeddings.patch_embeddings[0].weight
    model = add_lora(model, 2).train()
    digest = encoder_digest(model)
    model(pixel_values=torch.rand(2, 3, 64, 64))
    save_adapter(model, tmp_path)
    statistics = {name for name in load_file(tmp_path / "adapter_model.safetensors") if name.endswith("running_mean")}
    assert any("patch_embeddings.1." in name for name in statistics)
    assert encoder_digest(model) == digest


@pytest.fixture
def lora_trainer(tmp_path):
    """A function that makes a trainer of a small model with adapters of rank 2, which saves after each step."""

    def make(folder="run", lora=2, config=None, **arguments):
        defaults = {"max_steps": 4, "save_strategy": "steps", "save_steps": 2, "num_prediction_pictures": 0}
        return make_trainer(tmp_path / folder, defaults | arguments, config, lora=lora)

    return make


def test_a_run_saves_small_checkpoints_and_a_whole_model(lora_trainer, tmp_path):
    trainer = lora_trainer(config={"decoder_type": "mla", "out_indices": None, "mla_hidden_size": 8})
    before = {name: tensor.clone() for name, tensor in trainer.model.state_dict().items()}
    trainer.train()
    trainer.save_model()
    after, folder = trainer.model.state_dict(), tmp_path / "run"
    trained = {name for name, weight in trainer.model.named_parameters() if weight.requires_grad}
    changed = {name for name in after if not after[name].equal(before[name])}
    # B is 0 at first, and gradients of A are small.
    assert all("lora_A" in name for name in trained - changed) and any("lora_A" in name for name in changed)
    assert all("running_" in name or "num_batches" in name for name in changed - trained)
    assert all(".modules_to_save." in name for name in changed - trained)

    checkpoint = folder / "checkpoint-4"
    assert not list(checkpoint.glob("*.safetensors")) and not (checkpoint / "config.json").exists()
    assert not (folder / "adapter_config.json").exists() and not list(folder.rglob("adapter/README.md"))
    files = ["adapter_config.json", "adapter_model.safetensors", "network.json"]
    for holder in (checkpoint, folder):
        assert sorted(path.name for path in (holder / "adapter").iterdir()) == files
    size = (checkpoint / "adapter/adapter_model.safetensors").stat().st_size
    assert size < checkpoint_bytes(trainer.model, None) + 20_000
    assert checkpoint_bytes(trainer.model, None) < sum(
        tensor.nbytes for tensor in merged(trainer.model).state_dict().values()
    )

    segmenter = pipeline("image-segmentation", model=str(folder))
    whole, images = segmenter.model, torch.rand(1, 3, 64, 64)
    trainer.model.eval()
    torch.testing.assert_close(outputs(whole, images), outputs(trainer.model, images), rtol=0, atol=1e-6)
    # The base is random, so that the run alone has it.
    base = trainer.model.unload()
    again = merge_adapter(folder / "checkpoint-4", base=base)
    torch.testing.assert_close(outputs(again, images), outputs(whole, images), rtol=0, atol=0)

    card = ModelCard.load(folder / "README.md").text
    assert "| LoRA | rank 2, alpha 2, on 24 linear layers of the encoder |" in card
    assert "| trained of the encoder | " in card and "merged into these weights" in card


@pytest.mark.parametrize("arguments", [{}, {"activation_checkpointing": True, "bf16": True}])
def test_a_resumed_run_ends_as_one_that_was_not_interrupted(lora_trainer, tmp_path, arguments):
    if (
        "activation_checkpointing" in arguments
        and "activation_checkpointing" not in SetrTrainingArguments.__dataclass_fields__
    ):
        arguments = {"gradient_checkpointing": True, "bf16": True}
    config = {"hidden_dropout_prob": 0.1, "drop_path_rate": 0.2}
    undisturbed = lora_trainer("undisturbed", config=config, **arguments)
    undisturbed.train()
    undisturbed.save_model()
    shutil.copytree(tmp_path / "undisturbed/checkpoint-2", tmp_path / "run/checkpoint-2")
    resumed = lora_trainer(config=config, **arguments)
    resumed.train(resume_from_checkpoint=True)
    resumed.save_model()
    for name in ("model.safetensors", "adapter/adapter_model.safetensors"):
        assert (tmp_path / "run" / name).read_bytes() == (tmp_path / "undisturbed" / name).read_bytes()
    losses = [
        [row["loss"] for row in trainer.state.log_history if "loss" in row] for trainer in (undisturbed, resumed)
    ]
    assert losses[0] == losses[1]


def test_gradient_checkpointing_changes_no_gradient(adapted):
    model = adapted(decoder_type="naive").train()
    images, labels = torch.rand(2, 3, 64, 64), torch.randint(5, (2, 64, 64))

    def gradients():
        model.zero_grad()
        model(pixel_values=images, labels=labels).loss.backward()
        return {name: weight.grad for name, weight in model.named_parameters() if weight.requires_grad}

    expected = gradients()
    assert all(gradient.any() for gradient in expected.values() if gradient.ndim > 1)
    getattr(model, "activation_checkpointing_enable", model.gradient_checkpointing_enable)()
    torch.testing.assert_close(gradients(), expected)


def test_the_best_adapters_are_saved_in_the_end(lora_trainer, tmp_path):
    best = {"eval_strategy": "steps", "eval_steps": 2, "load_best_model_at_end": True, "greater_is_better": False}
    trainer = lora_trainer(**best, learning_rate=0.1)
    trainer.train()
    trainer.save_model()
    checkpoint = trainer.state.best_model_checkpoint
    kept = load_file(f"{checkpoint}/adapter/adapter_model.safetensors")
    saved = load_file(tmp_path / "run/adapter/adapter_model.safetensors")
    assert all(saved[name].equal(kept[name]) for name in kept)


def test_heads_and_adapters_have_rates_of_their_own(lora_trainer):
    trainer = lora_trainer(head_learning_rate_ratio=10, learning_rate=0.01)
    groups = {group["name"]: group for group in trainer.create_optimizer().param_groups}
    names = {weight: name for name, weight in trainer.model.named_parameters()}
    assert all("lora_" in names[weight] for weight in groups["base"]["params"])
    assert not any("lora_" in names[weight] for weight in groups["head"]["params"])
    assert groups["head"]["lr"] == 10 * groups["base"]["lr"] == 0.1


def test_the_stock_trainer_takes_the_same_model(tiny_config, tmp_path):
    examples = [{"pixel_values": torch.randn(3, 32, 32), "labels": torch.randint(0, 5, (32, 32))} for _ in range(4)]
    model = add_lora(SetrForSemanticSegmentation(tiny_config()), rank=2)
    arguments = SetrTrainingArguments(
        str(tmp_path), use_cpu=True, report_to=[], save_strategy="steps", save_steps=2, max_steps=2, disable_tqdm=True
    )
    frozen = encoder_digest(model)
    trainer = Trainer(model, arguments, train_dataset=examples, data_collator=collate)
    trainer.train()
    stored = load_file(tmp_path / "checkpoint-2/adapter_model.safetensors")
    assert any(tensor.any() for name, tensor in stored.items() if "lora_B" in name)
    assert any(name.endswith("running_mean") for name in stored) and encoder_digest(model) == frozen
    trainer.train(resume_from_checkpoint=True)
    whole = model.eval().merge_and_unload()
    assert type(whole) is SetrForSemanticSegmentation


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"rank": 0}, "rank of LoRA must be a whole number of at least 1, got 0"),
        ({"rank": -3}, "rank of LoRA must be a whole number of at least 1, got -3"),
        ({"rank": 2.5}, r"whole number of at least 1, got 2\.5"),
        ({"rank": True}, "whole number of at least 1, got True"),
        ({"rank": 33}, r"a rank of 33 is larger than the layer setr\.layers\.0\.attention\.q_proj, which is 32×32"),
        ({"rank": 2, "alpha": 0}, "alpha of LoRA must be a number greater than 0, got 0"),
        ({"rank": 2, "alpha": float("nan")}, "alpha of LoRA must be a number greater than 0, got nan"),
        ({"rank": 2, "alpha": float("inf")}, "alpha of LoRA must be a number greater than 0, got inf"),
        ({"rank": 2, "dropout": 1}, "dropout of LoRA must be at least 0 and less than 1, got 1"),
        ({"rank": 2, "dropout": float("nan")}, "dropout of LoRA must be at least 0 and less than 1, got nan"),
        ({"rank": 2, "target_modules": ["nothing"]}, r"no adapters can be put into \['nothing'\]"),
    ],
)
def test_settings_out_of_range_are_refused(tiny_model, settings, message):
    with pytest.raises(SetrError, match=message):
        add_lora(tiny_model(), **settings)


def test_what_has_no_place_for_adapters_is_refused(tiny_model):
    with pytest.raises(SetrError, match=r"merge_and_unload\(\) makes a whole model"):
        add_lora(add_lora(tiny_model(), 2), 2)
    with pytest.raises(SetrError, match="Sequential has no list of transformer layers with linear layers inside"):
        layer_linears(nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU()))
    some = add_lora(tiny_model(), 2, target_modules=["q_proj", "v_proj"])
    assert dict(lora_rows(some))["LoRA"] == "rank 2, alpha 2, on 8 linear layers of the encoder"


def test_a_missing_peft_is_named_with_its_cure(tiny_model, monkeypatch):
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(SetrError, match=r'pip install "setr-hf\[lora\]"'):
        add_lora(tiny_model(), 2)
    with pytest.raises(SetrError, match=r'pip install "setr-hf\[lora\]"'):
        merge_adapter("outputs")


def test_a_checkpoint_of_another_run_is_not_resumed(lora_trainer, tmp_path):
    short = {"max_steps": 1, "save_steps": 1}
    lora_trainer(**short).train()
    lora_trainer("whole", lora=None, **short).train()
    checkpoint = str(tmp_path / "run/checkpoint-1")
    for options, message in (
        ({"lora": 3}, "was trained with r 2, not 3"),
        ({"lora": None}, "is of a run with LoRA adapters"),
        ({"config": {"num_hidden_layers": 6}}, "was trained on another encoder"),
    ):
        with pytest.raises(SetrError, match=message):
            lora_trainer("other", **options).train(resume_from_checkpoint=checkpoint)
    with pytest.raises(SetrError, match="is of a run without LoRA adapters"):
        lora_trainer("other").train(resume_from_checkpoint=str(tmp_path / "whole/checkpoint-1"))
    trainer = lora_trainer("other")
    with torch.no_grad():
        trainer.model.get_base_model().setr.layers[2].mlp.fc1.base_layer.bias[3] += 1e-7
    with pytest.raises(SetrError, match="was trained on another encoder than this run starts from"):
        trainer.train(resume_from_checkpoint=checkpoint)
    (tmp_path / "run/checkpoint-1/adapter/adapter_model.safetensors").unlink()
    with pytest.raises(SetrError, match="holds no weights"):
        lora_trainer("other").train(resume_from_checkpoint=checkpoint)


def test_an_adapter_that_cannot_be_merged_is_refused(adapted, tiny_model, tmp_path):
    folder = tmp_path / "adapter"
    save_adapter(adapted(decoder_type="naive"), folder)
    with pytest.raises(SetrError, match="was trained on another encoder than that of SetrForSemanticSegmentation"):
        torch.manual_seed(1)
        merge_adapter(folder, base=tiny_model(decoder_type="naive"))
    with pytest.raises(SetrError, match="holds no adapter"):
        merge_adapter(tmp_path / "base")
    weights = load_file(folder / "adapter_model.safetensors")
    first = min(weights)
    for damage in ({name: weights[name] for name in weights if name != first}, weights | {"more": torch.zeros(1)}):
        save_file(damage, folder / "adapter_model.safetensors")
        with pytest.raises(SetrError, match="holds the weights of another network: 1 tensors"):
            merge_adapter(folder)
    (folder / "adapter_model.safetensors").write_bytes(b"nothing")
    with pytest.raises(SetrError, match="adapter"):
        merge_adapter(folder)
    save_file(weights, folder / "adapter_model.safetensors")
    content = json.loads((folder / "adapter_config.json").read_text())
    for change, message in (
        ({"peft_type": "IA3"}, "is not of LoRA adapters"),
        ({"peft_type": ["LORA"]}, "is not of LoRA adapters"),
        ({"r": 10**9}, r"has r=1000000000, but the ranks of its weights are \[2\]"),
        ({"r": None}, "has r=None"),
        ({"lora_alpha": "2"}, "lora_alpha='2', which is not a number"),
        ({"lora_alpha": 0}, "alpha of LoRA must be a number greater than 0"),
        ({"target_modules": None}, "target_modules=None, which is not a list of names"),
        ({"target_modules": ["nothing"]}, "cannot be loaded"),
        ({"modules_to_save": [3]}, r"modules_to_save=\[3\], which is not a list"),
        ({"modules_to_save": ["decode_head"]}, "holds the weights of another network"),
        ({"use_dora": 1}, "must have true or false"),
    ):
        (folder / "adapter_config.json").write_text(json.dumps(content | change))
        with pytest.raises(SetrError, match=message):
            merge_adapter(folder)
    (folder / "adapter_config.json").write_text(json.dumps(content | {"base_model_name_or_path": None}))
    with pytest.raises(SetrError, match="does not say what its encoder came from"):
        merge_adapter(folder)
    (folder / "network.json").write_text("{")
    with pytest.raises(SetrError, match=r"network\.json is not valid JSON"):
        merge_adapter(folder, base=tmp_path / "base")
