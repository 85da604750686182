"""A frozen encoder: what is trained, and the features that are computed once and kept."""

import copy
import shutil

import pytest
import torch
from distributed_training import history, make_trainer
from safetensors.torch import load_file
from small_disk import small_disk
from torchvision import tv_tensors
from torchvision.transforms import v2

from setr_hf import SetrForSemanticSegmentation, SetrTrainer, SetrTrainingArguments
from setr_hf.data.augmentation import training_transform, views, why_random
from setr_hf.errors import SetrError
from setr_hf.training.encoder_layers import find_encoder, freeze_encoder
from setr_hf.training.features import features_digest
from setr_hf.training.simulation import Simulation, StepSettings


MEAN, STD = [0.5] * 3, [0.25] * 3
# Scenes have 128×160 pixels: an eighth of them fits into the crop.
SIZE = {"shortest_edge": 16, "longest_edge": 20}
DINO = {"model_type": "dinov2", "hidden_size": 16, "num_hidden_layers": 4, "num_attention_heads": 2}
DINO |= {"patch_size": 16, "image_size": 32, "drop_path_rate": 0.5}
CONFIGS = {"own": {"hidden_dropout_prob": 0.3, "drop_path_rate": 0.3}, "dinov2": {"backbone_config": DINO}}
ARGUMENTS = {"max_steps": 6, "freeze_encoder": True, "num_prediction_pictures": 0}


class Counting(SetrTrainer):
    """Counts the images that the encoder is given."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.num_encoded, self.modes = 0, set()
        find_encoder(self.model)[1].register_forward_pre_hook(self.note)

    def note(self, encoder, inputs):
        self.num_encoded += len(inputs[0])
        self.modes.add(encoder.training)


def fixed_transform(**options):
    fixed = {"photometric_distortion": False, "horizontal_flip": False} | options
    return training_transform((32, 32), (1, 1), SIZE, MEAN, STD, **fixed)


def make(folder, arguments=None, config=None, **options):
    """A trainer of 12 scenes, in batches of 4, that are the same in each epoch."""
    trainer = make_trainer(folder, ARGUMENTS | (arguments or {}), config, Counting)
    examples = getattr(trainer.train_dataset, "examples", trainer.train_dataset)
    examples.transform = fixed_transform(**options)
    return trainer


def kept(folder):
    return sorted((folder / "_features").rglob("*.safetensors"))


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
def test_features_are_computed_once_and_training_comes_to_the_same_weights(config, tmp_path, capsys):
    keeping, computing = make(tmp_path / "keeping", {}, config), make(tmp_path, {"feature_folder": "none"}, config)
    before = copy.deepcopy(keeping.model.state_dict())
    keeping.train()
    assert "features  12 views of 12 photos, kept in" in capsys.readouterr().out
    computing.train()
    assert (keeping.num_encoded, computing.num_encoded) == (12, 24)
    assert keeping.modes == computing.modes == {False}
    after = keeping.model.state_dict()
    torch.testing.assert_close(after, computing.model.state_dict(), rtol=0, atol=1e-5)
    encoder = [name for name in before if name.startswith(("setr.", "backbone."))]
    assert all(before[name].equal(after[name]) for name in encoder)
    heads = [name for name, _ in keeping.model.named_parameters() if name not in encoder]
    assert len(heads) > 10 and not any(before[name].equal(after[name]) for name in heads if "classifier" in name)
    assert keeping.evaluate()["eval_mean_iou"] >= 0


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("finished")
    trainer = make(folder, horizontal_flip=True)
    trainer.train()
    return folder, trainer


def test_mirror_images_are_kept_as_well(finished):
    folder, trainer = finished
    assert trainer.num_encoded == len(kept(folder)) == 24
    maps = load_file(kept(folder)[0])["feature_maps"]
    assert maps.shape == (4, 16, 2, 2) and maps.dtype == torch.float32


def test_a_killed_run_goes_on_with_the_features_that_it_finds(finished, tmp_path, capsys):
    """5 of 24 are missing, and one of these had been begun."""
    folder, earlier = finished
    shutil.copytree(folder / "_features", tmp_path / "_features")
    files = kept(tmp_path)
    for path in files[:5]:
        path.unlink()
    (files[0].parent / f".{files[0].stem}.99999999.unfinished.safetensors").write_bytes(b"half")
    again = make(tmp_path, horizontal_flip=True)
    again.train()
    assert again.num_encoded == 5
    assert "features  5.1 kB are computed and written" in capsys.readouterr().out
    assert history(again) == history(earlier)
    assert [path.name for path in kept(tmp_path)] == [path.name for path in files]
    capsys.readouterr()
    last = make(tmp_path / "other", {"feature_folder": str(tmp_path / "_features")}, horizontal_flip=True)
    last.train()
    assert last.num_encoded == 0 and "all there already" in capsys.readouterr().out


def test_features_of_other_weights_or_photos_are_not_used(finished, tmp_path):
    shutil.copytree(finished[0] / "_features", tmp_path / "_features")
    other = make(tmp_path, horizontal_flip=True)
    with torch.no_grad():
        find_encoder(other.model)[1].embeddings.position_embeddings[0, 0, 0] += 1e-6
    other.train()
    assert other.num_encoded == 24 and len(list((tmp_path / "_features").iterdir())) == 2
    brighter = make(tmp_path, horizontal_flip=True)
    brighter.train_dataset.examples.transform = training_transform(
        (32, 32), (1, 1), SIZE, [0.4] * 3, STD, photometric_distortion=False
    )
    brighter.train()
    assert brighter.num_encoded == 24 and len(kept(tmp_path)) == 72


def test_features_that_are_damaged_are_named(finished, tmp_path):
    shutil.copytree(finished[0] / "_features", tmp_path / "_features")
    for path in kept(tmp_path):
        path.write_bytes(path.read_bytes()[:50])
    with pytest.raises(SetrError, match=r"the features of scene_\d+ in .* cannot be read .*: remove \w+\.safetensors"):
        make(tmp_path, horizontal_flip=True).train()


def test_a_disk_without_room_is_named_before_anything_is_written(tmp_path):
    with small_disk(tmp_path / "disk", 8192) as disk:
        trainer = make(tmp_path, {"feature_folder": str(disk / "features"), "num_train_epochs": 1}, {"image_size": 32})
        with pytest.raises(SetrError, match=r"features/\w+ is not written: it needs 12.3 kB, its disk has"):
            trainer.train()
        assert trainer.state.global_step == 0 and not list(disk.iterdir())


def test_with_random_views_the_encoder_runs_in_each_step(tmp_path, capsys):
    trainer = make_trainer(tmp_path, ARGUMENTS | {"max_steps": 2}, None, Counting)
    trainer.train()
    assert trainer.num_encoded == 8 and trainer.modes == {False}
    assert "features  computed in each step, as photos are scaled at random, by 0.5 to 1" in capsys.readouterr().out
    assert not kept(tmp_path)


@pytest.mark.parametrize(
    ("options", "size", "reason"),
    [
        ({"scale_range": (0.5, 1)}, None, "photos are scaled at random, by 0.5 to 1"),
        ({"photometric_distortion": True}, None, "colours are distorted at random"),
        ({}, (32, 41), "crops of 32×40 are cut at random from photos of 32×41"),
        ({}, (33, 40), "crops of 32×40 are cut at random from photos of 33×40"),
        ({}, (32, 40), None),
        ({"scale_range": (2, 2)}, (16, 20), None),
        ({"scale_range": (2, 2)}, (17, 20), "crops of 32×40 are cut at random from photos of 34×40"),
    ],
)
def test_what_is_random_about_an_augmentation(options, size, reason):
    settings = {"scale_range": (1, 1), "photometric_distortion": False} | options
    transform = training_transform((32, 40), size=None, image_mean=MEAN, image_std=STD, **settings)
    assert why_random(transform, {size} - {None}) == reason
    assert why_random(v2.Compose([v2.RandomRotation(5)]), set()) == "it is not known whether RandomRotation is random"


def test_views_are_all_that_the_augmentation_makes_of_a_photo():
    image = tv_tensors.Image(torch.randint(0, 256, (3, 32, 20), dtype=torch.uint8))
    mask = tv_tensors.Mask(torch.randint(0, 5, (32, 20), dtype=torch.uint8))
    transform = training_transform((32, 32), (1, 1), None, MEAN, STD, photometric_distortion=False)
    plain, mirrored = [view(image, mask) for view in views(transform)]
    assert not plain[0].equal(mirrored[0]) and plain[1][:, :20].flip(-1).equal(mirrored[1][:, :20])
    drawn = [transform(image, mask) for _ in range(20)]
    assert {any(one[0].equal(view[0]) and one[1].equal(view[1]) for view in (plain, mirrored)) for one in drawn} == {
        True
    }
    assert len(views(fixed_transform())) == 1


def test_a_name_of_an_encoder_says_all_that_decides_on_its_features(tiny_model):
    model = tiny_model()
    name = features_digest(model, "no")
    model.config.semantic_loss_ignore_index = 7
    model.decode_head.classifier.weight.data.zero_()
    model.config.architectures = ["SetrForSemanticSegmentation"]
    assert features_digest(model, "no") == name
    names = {name, features_digest(model, "bf16"), features_digest(tiny_model(decoder_type="naive"), "no")}
    model.config.layer_norm_eps = 1e-5
    names.add(features_digest(model, "no"))
    model.setr.layers[3].mlp.fc2.bias.data[0] += 1
    names.add(features_digest(model, "no"))
    assert len(names) == 5


def test_nothing_is_kept_for_gradients_of_a_frozen_encoder(tiny_config, tmp_path):
    config = tiny_config(decoder_type="naive")
    model = SetrForSemanticSegmentation(config)
    freeze_encoder(model)
    assert not model.compute_feature_maps(torch.rand(1, 3, 64, 64)).requires_grad
    peaks = [
        Simulation(
            config,
            (64, 64),
            SetrTrainingArguments(str(tmp_path), freeze_encoder=frozen, use_cpu=True, report_to=[]),
            "cpu",
        ).step_bytes(StepSettings(8))
        for frozen in (False, True)
    ]
    # Weights, gradients, moments and activations of four layers.
    assert peaks[1] < 0.6 * peaks[0]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"freeze_encoder": True, "num_frozen_layers": 2}, "freeze_encoder freezes all layers"),
        ({"feature_folder": "features"}, "feature_folder is for the features of a frozen encoder"),
    ],
)
def test_options_that_contradict_each_other_are_refused(arguments, message, tmp_path):
    with pytest.raises(SetrError, match=message):
        SetrTrainingArguments(str(tmp_path), use_cpu=True, report_to=[], **arguments)


@pytest.mark.parametrize("decoder_type", ["naive", "pup", "mla"])
def test_a_model_decodes_feature_maps_as_it_decodes_photos(decoder_type, tiny_model):
    model = tiny_model(decoder_type=decoder_type)
    photos, labels = torch.rand(2, 3, 60, 90), torch.randint(0, 5, (2, 60, 90))
    with torch.no_grad():
        expected = model(photos, labels=labels)
        maps = model.compute_feature_maps(photos)
        outputs = model(feature_maps=maps, labels=labels)
        assert outputs.keys() == expected.keys()
        for name in expected:
            torch.testing.assert_close(outputs[name], expected[name], rtol=0, atol=0)
        whole = model(torch.nn.functional.pad(photos, (0, 6, 0, 4))).logits
        torch.testing.assert_close(model(feature_maps=maps).logits, whole, rtol=0, atol=0)
    with pytest.raises(ValueError, match=r"labels of \(64, 64\) pixels have \(4, 4\) patches of 16, but feature_maps"):
        model(feature_maps=maps, labels=torch.zeros(2, 64, 64, dtype=torch.long))
    with pytest.raises(ValueError, match=r"feature_maps must have the shape \(batch_size, \d, hidden_size"):
        model(feature_maps=maps[:, 1:])
    with pytest.raises(ValueError, match="needs pixel_values, or feature_maps"):
        model(pixel_values=photos, feature_maps=maps)
