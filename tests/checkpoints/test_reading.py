"""Checkpoints that cannot become a model are refused in a line that names the file and the tensor."""

import io
import os
import pickle
import zipfile

import checkpoints
import numpy as np
import pytest
import torch

from setr_hf import SetrConfig, SetrForSemanticSegmentation, load_encoder
from setr_hf.checkpoints.convert import convert_checkpoint, load_original
from setr_hf.checkpoints.export import write_public_checkpoint
from setr_hf.checkpoints.reading import read_checkpoint
from setr_hf.errors import SetrError


OVERRIDES = {"num_attention_heads": checkpoints.HEADS, "auxiliary_out_indices": [1, 2, 3]}
KEY = "backbone.blocks.2.mlp.fc1.weight"


def save(folder, changes=None, **options):
    """A checkpoint in which the tensors of `changes` take the places of others; `None` stands for none."""
    state_dict = checkpoints.stand_in("original", "naive") | (changes or {})
    path = folder / "checkpoint.pth"
    torch.save({key: tensor for key, tensor in state_dict.items() if tensor is not None}, path, **options)
    return path


def weight(**options):
    return torch.ones(4 * checkpoints.WIDTH, checkpoints.WIDTH, **options)


@pytest.mark.parametrize(
    ("tensor", "message"),
    [
        (weight() * float("nan"), f"the tensor {KEY} has NaN or infinite values"),
        (weight() * float("-inf"), f"the tensor {KEY} has NaN or infinite values"),
        (weight(dtype=torch.float64) * 1e300, f"the tensor {KEY} has NaN or infinite values"),
        (weight() * 1j, f"the tensor {KEY} is of the type complex64"),
        (weight(dtype=torch.int32), f"the tensor {KEY} is of the type int32"),
        (weight() > 0, f"the tensor {KEY} is of the type bool"),
        (weight().to_sparse(), f"the sparse coo tensor {KEY}"),
        (weight(device="meta"), f"the meta tensor {KEY}"),
        (weight()[:0], rf"{KEY} has the shape \(0, 32\), not \(128, 32\)"),
        (weight().T.contiguous(), rf"{KEY} has the shape \(32, 128\), not \(128, 32\)"),
        (torch.zeros(1).expand(10**10), r"its tensors would have 40,\d{3},\d{3},\d{3} bytes"),
        ([weight()], f"the entry '{KEY}', a list, is not a named tensor"),
        (None, f"Missing: {KEY}"),
    ],
)
def test_a_tensor_that_is_no_weight_stops_the_conversion(tmp_path, tensor, message):
    path = save(tmp_path, {KEY: tensor})
    with pytest.raises(SetrError, match=f"{path}.*{message}"):
        convert_checkpoint(path, tmp_path / "out", overrides=OVERRIDES)
    assert os.listdir(tmp_path) == [path.name]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"decode_head.syncbn_fc_0.running_var": -torch.ones(256)}, "running_var has negative values"),
        ({"decode_head.syncbn_fc_0.num_batches_tracked": torch.tensor(0.5)}, "is of the type float32, not a whole"),
        ({"decode_head.conv_0.bias": torch.ones(1)}, r"conv_0.bias has the shape \(1,\), not \(256,\)"),
        ({"backbone.patch_embed.proj.weight": torch.ones(32)}, r"the shape \(32,\), not 4 positive sizes"),
        ({"backbone.blocks.999999999.attn.qkv.weight": torch.ones(96, 32)}, r"there is no backbone.blocks.4.attn"),
        (
            {"backbone.blocks.1.attn.qkv.weight": None, "backbone.blocks.1.attn.qkv.bias": None},
            r"no backbone.blocks.1",
        ),
        ({0: torch.ones(1)}, "the entry 0, a Tensor, is not a named tensor"),
        ({"0.weight": torch.ones(1)}, "Unknown: 0.weight"),
    ],
)
def test_what_contradicts_itself_stops_the_conversion(tmp_path, changes, message):
    with pytest.raises(SetrError, match=message):
        load_original(save(tmp_path, changes), overrides=OVERRIDES)


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("num_hidden_layers", 10**9, "num_hidden_layers is 4 in the file, but 1000000000 was given"),
        ("auxiliary_out_indices", 3, "auxiliary_out_indices must be a list of layers, got 3"),
        ("out_indices", ["a"], r"out_indices must be a list of layers, got \['a'\]"),
        ("dataset", "coco", "dataset must be one of ade20k, .*, got 'coco'"),
        ("decoder_type", ["pup"], r"decoder_type must be one of naive, pup, mla, got \['pup'\]"),
    ],
)
def test_fields_of_the_configuration_are_checked_before_they_are_used(tmp_path, field, value, message):
    with pytest.raises(SetrError, match=message):
        load_original(save(tmp_path), overrides=OVERRIDES | {field: value})


def test_whole_counts_and_half_precision_are_read(tmp_path):
    halves = {KEY: weight(dtype=torch.bfloat16)}
    counts = {"decode_head.syncbn_fc_0.num_batches_tracked": torch.tensor(7, dtype=torch.int32)}
    model, _, _ = load_original(save(tmp_path, halves | counts), overrides=OVERRIDES)
    assert model.setr.layers[2].mlp.fc1.weight.dtype == torch.float32
    assert model.decode_head.layers[0].normalization.num_batches_tracked.dtype == torch.int64


@pytest.mark.parametrize("legacy", [False, True])
def test_a_file_cut_anywhere_is_refused(tmp_path, legacy):
    path = save(tmp_path, _use_new_zipfile_serialization=not legacy)
    data = path.read_bytes()
    for part in range(50):
        path.write_bytes(data[: len(data) * part // 50])
        with pytest.raises(SetrError, match=str(path)):
            load_original(path, overrides=OVERRIDES)


def test_a_changed_byte_is_noticed(tmp_path):
    path = save(tmp_path)
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    with pytest.raises(SetrError, match=r"the checksum of its entry checkpoint/data/\d+ is wrong"):
        read_checkpoint(path)


def zip_bomb(name):
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(name, b"\0" * 10**8)
    return file.getvalue()


def test_bombs_are_refused_unread(tmp_path):
    tiny = SetrForSemanticSegmentation(
        SetrConfig(hidden_size=32, num_hidden_layers=4, num_attention_heads=2, image_size=64, decoder_type="naive")
    )
    (tmp_path / "bomb.pth").write_bytes(zip_bomb("archive/data.pkl"))
    (tmp_path / "bomb.npz").write_bytes(zip_bomb("cls.npy"))
    with pytest.raises(SetrError, match=r"bomb.pth is refused: of .* bytes, it would unpack to 100,000,000"):
        read_checkpoint(tmp_path / "bomb.pth")
    with pytest.raises(SetrError, match=r"bomb.npz is refused: of .* bytes, it would unpack to 100,000,000"):
        load_encoder(tiny, tmp_path / "bomb.npz")
    pickled = b"\x80\x02cbuiltins\nbytearray\n(J\x00\x94\x35\x77tR."
    (tmp_path / "reserve.pth").write_bytes(pickled)
    with pytest.raises(SetrError, match="its pickle reserves memory"):
        read_checkpoint(tmp_path / "reserve.pth")


def test_pickles_nested_in_themselves_are_refused(tmp_path):
    cyclic: dict = {}
    cyclic["state_dict"] = cyclic
    (tmp_path / "cyclic.pth").write_bytes(pickle.dumps(cyclic, 2))
    (tmp_path / "deep.pth").write_bytes(b"\x80\x02" + b"]" * 100_000 + b"a" * 99_999 + b".")
    for name in ("cyclic.pth", "deep.pth"):
        with pytest.raises(SetrError, match=name):
            read_checkpoint(tmp_path / name)


def test_what_is_no_file_is_said_at_once(tmp_path):
    (tmp_path / "folder.pth").mkdir()
    os.mkfifo(tmp_path / "pipe.pth")
    (tmp_path / "loop.pth").symlink_to("loop.pth")
    for name, message in (("folder", "is a folder"), ("pipe", "is not a file"), ("loop", "is not a file")):
        with pytest.raises(SetrError, match=f"{name}.pth {message}"):
            read_checkpoint(tmp_path / f"{name}.pth")


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_the_way_back_writes_no_weights_that_are_not_finite(tmp_path, value):
    path = save(tmp_path)
    convert_checkpoint(path, tmp_path / "ours", overrides=OVERRIDES)
    model = SetrForSemanticSegmentation.from_pretrained(tmp_path / "ours")
    with torch.no_grad():
        model.decode_head.classifier.weight[0] = value
    model.save_pretrained(tmp_path / "ours")
    with pytest.raises(SetrError, match=r"decode_head\.classifier\.weight"):
        write_public_checkpoint(tmp_path / "ours", tmp_path / "back.pth", "original")
    assert not (tmp_path / "back.pth").exists()


def test_arrays_of_an_encoder_are_checked(tmp_path):
    model = SetrForSemanticSegmentation(
        SetrConfig(hidden_size=32, num_hidden_layers=1, num_attention_heads=2, image_size=64, decoder_type="naive")
    )
    state = {f"vit.{key}": tensor.clone() for key, tensor in model.setr.state_dict().items()}
    for changes, message in (
        ({"vit.embeddings.cls_token": torch.full((1, 1, 32), torch.nan)}, "cls_token has NaN"),
        ({"vit.embeddings.position_embeddings": torch.ones(5)}, r"position embeddings of the shape \(5,\)"),
        ({"setr.embeddings.cls_token": torch.ones(1, 1, 32)}, "two of its keys mean embeddings.cls_token"),
    ):
        torch.save(state | changes, tmp_path / "vit.pth")
        with pytest.raises(SetrError, match=message):
            load_encoder(model, tmp_path / "vit.pth")
    np.savez(tmp_path / "vit.npz", **{"Transformer/encoderblock_0/MlpBlock_3/Dense_0/kernel": np.ones(3)})
    with pytest.raises(SetrError, match=r"Dense_0/kernel of .*vit.npz has the shape \(3,\)"):
        load_encoder(model, tmp_path / "vit.npz")
