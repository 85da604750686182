"""Checkpoints, encoders and the fields of `--config`: files of weights of any origin, and of none."""

import io
import os
import pickle
import struct
import zipfile
from functools import cache

import checkpoints
import numpy as np
import torch
from hostile import Attempt, family
from mutations import any_value, as_json, nested, with_changes, with_damage
from safetensors.torch import save as safetensors_bytes

from setr_hf import SetrConfig, SetrForSemanticSegmentation
from setr_hf.checkpoints.convert import convert_checkpoint, load_original
from setr_hf.checkpoints.encoder import EncoderReport, load_encoder
from setr_hf.checkpoints.export import write_public_checkpoint
from setr_hf.checkpoints.reading import read_checkpoint


FORMS = [("original", "naive"), ("mmseg", "naive"), ("original", "mla"), ("mmseg", "pup")]


@cache
def stand_in(implementation, decoder):
    return checkpoints.stand_in(implementation, decoder)


def overrides_of(implementation, decoder):
    layers = list(checkpoints.AUXILIARY_LAYERS[implementation, decoder])
    return {"num_attention_heads": checkpoints.HEADS, "auxiliary_out_indices": layers}


def pth(content, legacy=False) -> bytes:
    file = io.BytesIO()
    torch.save(content, file, _use_new_zipfile_serialization=not legacy)
    return file.getvalue()


@torch.no_grad()
def check_model(loaded) -> None:
    """All weights are finite numbers in single precision, and so are the scores of an image."""
    model, processor, report = loaded
    assert report.num_used and report.num_set == len(model.state_dict())
    for name, tensor in model.state_dict().items():
        assert tensor.isfinite().all(), name
        assert tensor.dtype == (torch.int64 if name.endswith("num_batches_tracked") else torch.float32), name
    size = processor.crop_size["height"], processor.crop_size["width"]
    logits = model(torch.randn(1, 3, *[min(side, 64) for side in size])).logits
    assert logits.shape[1] == len(model.config.id2label) and logits.isfinite().all()


def hostile_tensor(random, tensor):
    """Another tensor in the place of one."""
    kinds = {
        "nan": lambda: torch.full_like(tensor, float("nan"), dtype=torch.float32),
        "one inf": lambda: torch.where(torch.arange(tensor.numel()).view(tensor.shape) == 0, torch.inf, tensor),
        "beyond single precision": lambda: torch.full(tensor.shape, 1e300, dtype=torch.float64),
        "negative": lambda: -tensor.abs() - 1,
        "complex": lambda: tensor * 1j,
        "whole numbers": lambda: tensor.to(torch.int32),
        "bool": lambda: tensor > 0,
        "half": lambda: tensor.half(),
        "bfloat16": lambda: tensor.bfloat16(),
        "float8": lambda: tensor.float().to(torch.float8_e4m3fn),
        "sparse": lambda: tensor.float().to_sparse(),
        "meta": lambda: tensor.to("meta"),
        "quantized": lambda: torch.quantize_per_tensor(tensor.float(), 0.1, 0, torch.qint8),
        "expanded": lambda: torch.zeros(1).expand(10**10),
        "empty": lambda: tensor.flatten()[:0],
        "scalar": lambda: torch.tensor(0.5),
        "another dimension": lambda: tensor[None],
        "another side": lambda: tensor.repeat_interleave(2, dim=0) if tensor.ndim else tensor[None],
        "fewer rows": lambda: tensor[: len(tensor) // 2] if tensor.ndim else tensor,
        "turned": lambda: tensor.transpose(0, -1) if tensor.ndim > 1 else tensor,
        "list": lambda: [tensor, tensor],
        "none": lambda: None,
        "number": lambda: 5,
        "parameter": lambda: torch.nn.Parameter(tensor.float()),
        "dictionary": lambda: {"weight": tensor},
    }
    kind = random.choice(sorted(kinds))
    return kind, kinds[kind]()


def hostile_key(random, key):
    number = random.choice(["0", "1", "3", "7", "00", "-1", "999999999", "9" * 5000, "٣", ""])
    first = next((part for part in key.split(".") if part.isdecimal()), "x")
    changes = [
        key + "_",
        "",
        f"module.{key}",
        key.replace(f".{first}.", f".{number}."),
        f"{number}.weight",
        key.upper(),
    ]
    changes += [7, None, ("a", "b"), 1.5, key.replace("backbone.", ""), key + "\x1b[2J\n", "x" * 10**5, "\ud800"]
    return random.choice(changes)


def hostile_state(random, state_dict):
    """A state dict with up to three changes, and what they are."""
    state, changes = dict(state_dict), []
    for _ in range(random.choice([0, 1, 1, 1, 2, 3])):
        key = random.choice(list(state))
        action = random.randrange(5)
        if action == 0:
            del state[key]
            changes.append(f"without {key!r:.90}")
        elif action == 1:
            new = hostile_key(random, key) if isinstance(key, str) else "x"
            state[new] = state.pop(key) if random.random() < 0.5 else state[key]
            changes.append(f"{key!r:.90} as {new!r:.90}")
        elif isinstance(state[key], torch.Tensor):
            what, state[key] = hostile_tensor(random, state_dict.get(key, torch.zeros(2, 2)))
            changes.append(f"{key!r:.90} {what}")
    return state, "; ".join(changes)


def hostile_meta(random):
    names = ["sky", "tree", "road", "car", "sign"]
    meta = {"CLASSES": names, "PALETTE": [[1, 2, 3]] * 5, "dataset_meta": {"classes": names, "palette": None}}
    meta["setr_hf"] = {"image_size": 64, "num_attention_heads": 2, "use_class_token": True}
    return with_changes(random, meta)


@family(count=2_200)
def checkpoint_states(random, folder):
    implementation, decoder = random.choice(FORMS)
    state, what = hostile_state(random, stand_in(implementation, decoder))
    if random.random() < 0.1:
        state, what = {f"module.{key}": tensor for key, tensor in state.items()}, f"module.: {what}"
    meta = hostile_meta(random) if random.random() < 0.3 else {}
    overrides = overrides_of(implementation, decoder)
    path, output = folder / "checkpoint.pth", folder / "converted"
    try:
        path.write_bytes(pth({"state_dict": state, "meta": meta}, legacy=random.random() < 0.1))
    except (UnicodeError, RuntimeError, NotImplementedError, AttributeError):
        path.write_bytes(pth({"state_dict": {}}))  # torch.save does not write this.
    what = f"{implementation} {decoder} {what} {meta}"
    if random.random() < 0.05:
        return Attempt(what, lambda: convert_checkpoint(path, output, overrides=overrides), absent=output)
    return Attempt(what, lambda: load_original(path, overrides=overrides), check_model)


@cache
def valid_bytes(form):
    state = {key: tensor.clone() for key, tensor in stand_in("original", "naive").items()}
    if form == "safetensors":
        return safetensors_bytes(state)
    return pth({"state_dict": state, "meta": {"CLASSES": list("abcde")}}, legacy=form == "legacy")


def mlp_weight():
    return stand_in("original", "naive")["backbone.blocks.0.mlp.fc1.weight"]


def small_safetensors() -> bytes:
    return safetensors_bytes({"weight": torch.ones(2, 2), "bias": torch.ones(2)})


def small_npy() -> bytes:
    file = io.BytesIO()
    np.save(file, np.ones((1, 1, 4), dtype=np.float32))
    return file.getvalue()


def hostile_safetensors(random) -> bytes:
    """A small file of safetensors whose header lies."""
    data = struct.pack("<4f", 1, 2, 3, 4)
    entry = {"dtype": "F32", "shape": [4], "data_offsets": [0, 16]}
    header = with_changes(random, {"weight": entry, "bias": entry | {"data_offsets": [8, 16], "shape": [2]}})
    text = random.choice([as_json(header), nested(random, b'{"a":', b"}"), as_json(any_value(random))])
    length = random.choice([len(text), len(text) + 1, 0, 2**63, 2**64 - 1, 100_000_000, 7])
    return struct.pack("<Q", length) + text + data * random.randint(0, 2)


@family(count=1_800)
def checkpoint_bytes(random, folder):
    form = random.choice(["zip", "legacy", "safetensors"])
    path = folder / ("file.safetensors" if form == "safetensors" else "file.pth")
    data = valid_bytes(form)
    kind = random.randrange(6)
    if kind <= 1:
        part = random.randrange(51)
        data, what = data[: len(data) * part // 50], f"the first {part} of 50 parts"
    elif kind == 2:
        data, what = with_damage(random, data), "damaged"
    elif kind == 3:
        data, what = with_damage(random, data[:2000]) + data[2000:], "damaged at its beginning"
    elif kind == 4 and form == "safetensors":
        data, what = hostile_safetensors(random), "a header that lies"
    elif kind == 4:
        data, what = data[:-3000] + with_damage(random, data[-3000:]), "damaged at its end"
    else:
        other = random.choice(["zip", "legacy", "safetensors", "page", "pointer", "noise", "nothing"])
        others = {"page": b"<html>404</html>", "pointer": b"version https://git-lfs", "nothing": b""}
        others["noise"] = random.randbytes(random.randrange(1, 3000))
        data, what = others[other] if other in others else valid_bytes(other), f"{other} in its place"
    path.write_bytes(data)
    overrides = overrides_of("original", "naive")

    def check(loaded):
        """Only a zip file has checksums; other formats may hold other finite numbers than were written."""
        weights = loaded[0].state_dict()
        assert all(tensor.isfinite().all() for tensor in weights.values())
        if data.startswith(b"PK"):
            check_model(loaded)
            assert torch.equal(weights["setr.layers.0.mlp.fc1.weight"], mlp_weight())

    return Attempt(f"{form}: {what}", lambda: load_original(path, overrides=overrides), check)


def pickle_calling(module, name, *arguments) -> bytes:
    inner = b"".join(pickle.dumps(argument, 2)[2:-1] for argument in arguments)
    return b"\x80\x02c" + f"{module}\n{name}\n".encode() + b"(" + inner + b"tR."


CALLS = [("os", "system", "true"), ("builtins", "eval", "1"), ("builtins", "bytearray", 2 * 10**9)]
CALLS += [
    ("__builtin__", "bytearray", 2 * 10**9),
    ("torch", "Tensor", 10**9),
    ("torch.storage", "UntypedStorage", 10**9),
]
CALLS += [("torch", "load", "x"), ("collections", "OrderedDict", [["a", 1]]), ("torch", "Size", [10**9])]
CALLS += [
    ("setr_hf.checkpoints.reading", "read_checkpoint", "x"),
    ("argparse", "Namespace", 1),
    ("torch", "device", "cuda"),
]


def deep_pickle(random) -> bytes:
    depth = random.choice([100, 10_000, 300_000])
    return b"\x80\x02" + random.choice([b"]" * depth + b"a" * (depth - 1), b"]" * depth, b"(" * depth]) + b"."


def cyclic_pickle(_) -> bytes:
    state: dict = {}
    state["state_dict"] = state["model"] = state
    return pickle.dumps(state, 2)


def archive_with(data: bytes, compression=zipfile.ZIP_STORED, names=("archive/data.pkl",)) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", compression) as archive:
        for name in names:
            archive.writestr(name, data)
        archive.writestr("archive/version", "3\n")
        archive.writestr("archive/byteorder", "little")
    return file.getvalue()


@family(count=700)
def pickles(random, folder):
    path = folder / "file.pth"
    kinds = {
        "call": lambda: pickle_calling(*random.choice(CALLS)),
        "deep": lambda: deep_pickle(random),
        "cyclic": lambda: cyclic_pickle(random),
        "noise": lambda: b"\x80\x02" + random.randbytes(random.randrange(300)),
        "values": lambda: pickle.dumps(any_value(random, 4), 2),
        "empty": lambda: pickle.dumps({}, 2),
        "protocol 5": lambda: pickle.dumps({"a": bytearray(10)}, 5),
    }
    kind = random.choice(sorted(kinds))
    data = kinds[kind]()
    form = random.randrange(5)
    if form == 0:
        data = archive_with(data)
    elif form == 1:
        data = archive_with(data + b"\0" * 10**8 * (random.random() < 0.1), zipfile.ZIP_DEFLATED)
    elif form == 2:
        data = archive_with(data, names=("../../data.pkl", "/etc/data.pkl", "archive/../data.pkl"))
    elif form == 3:
        header = (pickle.dumps(value, 2) for value in (0x1950A86A20F9469CFC6C, 1001, {"little_endian": True}))
        data = b"".join(header) + data
    path.write_bytes(data)
    return Attempt(f"{kind}, form {form}: {data[:80]!r}", lambda: read_checkpoint(path))


@family(count=60)
def files_that_are_none(random, folder):
    path = folder / random.choice(["file.pth", "file.npz", "file.safetensors"])
    kind = random.randrange(6)
    if kind == 0:
        path.mkdir()
    elif kind == 1:
        os.mkfifo(path)
    elif kind == 2:
        path.symlink_to(path)
    elif kind == 3:
        path.symlink_to("/dev/zero")
    elif kind == 4:
        path = folder / random.choice(["x" * 300 + ".pth", "no/such.pth", "a\x00.pth"])
    return Attempt(f"{kind}", lambda: read_checkpoint(path))


TINY = {
    "hidden_size": 32,
    "num_hidden_layers": 4,
    "num_attention_heads": 2,
    "intermediate_size": 128,
    "image_size": 64,
}


@cache
def encoder_model():
    return SetrForSemanticSegmentation(SetrConfig(**TINY, decoder_type="naive", num_labels=5))


@cache
def vit_arrays():
    state = {key.removeprefix("backbone."): t for key, t in stand_in("original", "naive").items() if "backbone" in key}
    arrays = {"cls": state["cls_token"], "Transformer/posembed_input/pos_embedding": state["pos_embed"]}
    arrays["embedding/kernel"] = state["patch_embed.proj.weight"].permute(2, 3, 1, 0)
    arrays["embedding/bias"] = state["patch_embed.proj.bias"]
    for index in range(checkpoints.DEPTH):
        block, ours = f"Transformer/encoderblock_{index}", f"blocks.{index}"
        attention = f"{block}/MultiHeadDotProductAttention_1"
        for name, norm in (("LayerNorm_0", "norm1"), ("LayerNorm_2", "norm2")):
            arrays[f"{block}/{name}/scale"] = state[f"{ours}.{norm}.weight"]
            arrays[f"{block}/{name}/bias"] = state[f"{ours}.{norm}.bias"]
        weights, biases = (state[f"{ours}.attn.qkv.{part}"].chunk(3) for part in ("weight", "bias"))
        for name, weight, bias in zip(("query", "key", "value"), weights, biases):
            arrays[f"{attention}/{name}/kernel"] = weight.T.reshape(32, 2, 16)
            arrays[f"{attention}/{name}/bias"] = bias.reshape(2, 16)
        arrays[f"{attention}/out/kernel"] = state[f"{ours}.attn.proj.weight"].T.reshape(2, 16, 32)
        arrays[f"{attention}/out/bias"] = state[f"{ours}.attn.proj.bias"]
        for dense, layer in (("Dense_0", "fc1"), ("Dense_1", "fc2")):
            arrays[f"{block}/MlpBlock_3/{dense}/kernel"] = state[f"{ours}.mlp.{layer}.weight"].T
            arrays[f"{block}/MlpBlock_3/{dense}/bias"] = state[f"{ours}.mlp.{layer}.bias"]
    return {key: array.numpy() for key, array in arrays.items()}


def hostile_array(random, array):
    kinds = [
        lambda: array[None],
        lambda: array.ravel()[:0],
        lambda: array.ravel()[0],
        lambda: array.astype(np.int32),
        lambda: array.astype(np.float16),
        lambda: array * 1j,
        lambda: np.full_like(array, np.nan),
        lambda: array.astype(">f4"),
        lambda: array.T,
        lambda: np.repeat(array, 2, axis=0),
        lambda: array.astype(str),
        lambda: array.view("V4"),
        lambda: np.array([None]),
        lambda: array.ravel(),
    ]
    return random.choice(kinds)()


def check_encoder(report: EncoderReport) -> None:
    assert report.num_loaded == report.num_parameters
    for name, tensor in encoder_model().setr.state_dict().items():
        assert tensor.isfinite().all() and tensor.dtype == torch.float32, name


@family(count=900)
def encoder_files(random, folder):
    kind = random.randrange(4)
    if kind <= 1:
        path = folder / "vit.npz"
        arrays = dict(vit_arrays())
        key = random.choice(list(arrays))
        if random.random() < 0.3:
            arrays[str(hostile_key(random, key))[:200].replace("\x00", "").replace("\ud800", "")] = arrays[key]
        if random.random() < 0.8:
            arrays[key] = hostile_array(random, arrays[key])
        file = io.BytesIO()
        (np.savez_compressed if random.random() < 0.2 else np.savez)(file, **arrays)
        data = file.getvalue()
        if random.random() < 0.3:
            data = with_damage(random, data)
        if random.random() < 0.02:
            data = archive_with(b"\x93NUMPY\x01\x00" + b"\0" * 10**8, zipfile.ZIP_DEFLATED, ("cls.npy",))
        path.write_bytes(data)
        what = f"npz {key}"
    else:
        path = folder / "vit.pth"
        timm = {
            key.removeprefix("backbone."): t for key, t in stand_in("original", "naive").items() if "backbone" in key
        }
        ours = {f"vit.{key}": tensor for key, tensor in encoder_model().setr.state_dict().items()}
        state, what = hostile_state(random, timm if kind == 2 else ours)
        try:
            path.write_bytes(pth(state))
        except (UnicodeError, RuntimeError, NotImplementedError, AttributeError):
            path.write_bytes(pth({}))
    return Attempt(what, lambda: load_encoder(encoder_model(), path), check_encoder)


CONFIG = {"num_attention_heads": 2, "auxiliary_out_indices": [1, 2, 3], "image_size": [64, 64], "out_indices": [4]}
CONFIG |= {"decoder_scale_factor": 1, "dataset": None, "palette": [[1, 2, 3]] * 5, "use_class_token": True}
FIELDS = ["hidden_size", "num_hidden_layers", "num_labels", "id2label", "dtype", "hidden_act", "decoder_type"]
FIELDS += ["layer_norm_eps", "backbone_config", "out_features", "decoder_kernel_size", "architectures", "auto_map"]
FIELDS += ["patch_size", "qkv_bias", "label2id", "problem_type", "attn_implementation", "_attn_implementation"]


@family(count=900)
def conversion_configs(random, folder):
    path = folder / "checkpoint.pth"
    path.write_bytes(valid_bytes("zip"))
    config = random.choice([dict(CONFIG), with_changes(random, CONFIG)])
    if isinstance(config, dict) and random.random() < 0.6:
        config[random.choice(FIELDS)] = any_value(random)
    if not isinstance(config, dict):
        config = {random.choice(FIELDS): config}
    return Attempt(f"{config}"[:500], lambda: load_original(path, overrides=config), check_model)


@family(count=40)
def ways_back(random, folder):
    torch.manual_seed(0)
    model = SetrForSemanticSegmentation(SetrConfig(**TINY, decoder_type="naive", num_labels=5)).eval()
    name, tensor = random.choice([pair for pair in model.state_dict().items() if pair[1].is_floating_point()])
    what = "whole"
    if random.random() < 0.7:
        tensor.view(-1)[0] = random.choice([float("nan"), float("inf")])
        what = name
    model.save_pretrained(folder / "ours")
    path = folder / "theirs.pth"

    def check(state_dict):
        assert what == "whole" and all(tensor.isfinite().all() for tensor in state_dict.values())

    run = lambda: write_public_checkpoint(folder / "ours", path, "original")  # noqa: E731
    return Attempt(what, run, check, absent=path)
