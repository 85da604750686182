"""
Stand-ins for the public SETR checkpoints: the keys and shapes that the original repository and mmsegmentation give
their networks, filled by a rule, and a plain forward pass of each network in the form of its publication.
"""

import math
import zlib

import torch
from torch.nn import functional as F


WIDTH, DEPTH, HEADS, CLASSES, GRID = 32, 4, 2, 5, (4, 4)
MLA_LAYERS = (1, 2, 3, 4)
CHANNELS, MLA_CHANNELS = 256, 128
AUXILIARY_LAYERS = {
    ("original", "naive"): (1, 2, 3),
    ("original", "pup"): (1, 2, 3, 4),
    ("mmseg", "naive"): (1, 2, 3),
    ("mmseg", "pup"): (1, 2, 3),
    ("original", "mla"): MLA_LAYERS,
    ("mmseg", "mla"): MLA_LAYERS,
}
FORMS = sorted(AUXILIARY_LAYERS)


def fill(key: str, shape: tuple[int, ...]) -> torch.Tensor:
    """A tensor that depends on nothing but its key and shape, scaled so that activations stay near 1."""
    if key.endswith("num_batches_tracked"):
        return torch.tensor(7)
    noise = torch.randn(shape, generator=torch.Generator().manual_seed(zlib.crc32(key.encode())))
    if key.endswith("running_var"):
        return 1 + 0.2 * noise.abs()
    if key.endswith(("running_mean", "bias")):
        return 0.1 * noise
    if len(shape) == 1:
        return 1 + 0.1 * noise
    if key.endswith(("cls_token", "pos_embed")):
        return 0.5 * noise
    return noise * math.prod(shape[1:]) ** -0.5


def linear(name, in_channels, out_channels, bias=True):
    return {f"{name}.weight": (out_channels, in_channels)} | ({f"{name}.bias": (out_channels,)} if bias else {})


def conv(name, in_channels, out_channels, kernel, bias):
    shapes = {f"{name}.weight": (out_channels, in_channels, kernel, kernel)}
    return shapes | ({f"{name}.bias": (out_channels,)} if bias else {})


def norm(name, channels):
    return {f"{name}.weight": (channels,), f"{name}.bias": (channels,)}


def batch_norm(name, channels):
    buffers = {f"{name}.{buffer}": (channels,) for buffer in ("running_mean", "running_var")}
    return norm(name, channels) | buffers | {f"{name}.num_batches_tracked": ()}


def vit_shapes(naming, prefix, grid=GRID, patch_bias=True, depth=DEPTH):
    """Keys of a ViT: "timm", which is also the original's backbone, or "mmseg"."""
    patch = f"{prefix}patch_embed.{'proj' if naming == 'timm' else 'projection'}"
    shapes = {f"{prefix}cls_token": (1, 1, WIDTH), f"{prefix}pos_embed": (1, 1 + math.prod(grid), WIDTH)}
    shapes |= conv(patch, 3, WIDTH, 16, bias=patch_bias)
    for index in range(depth):
        if naming == "timm":
            block = f"{prefix}blocks.{index}"
            shapes |= norm(f"{block}.norm1", WIDTH) | linear(f"{block}.attn.qkv", WIDTH, 3 * WIDTH)
            shapes |= linear(f"{block}.attn.proj", WIDTH, WIDTH) | norm(f"{block}.norm2", WIDTH)
            shapes |= linear(f"{block}.mlp.fc1", WIDTH, 4 * WIDTH) | linear(f"{block}.mlp.fc2", 4 * WIDTH, WIDTH)
        else:
            block = f"{prefix}layers.{index}"
            attention = f"{block}.attn.attn"
            shapes |= norm(f"{block}.ln1", WIDTH) | norm(f"{block}.ln2", WIDTH)
            shapes |= {f"{attention}.in_proj_weight": (3 * WIDTH, WIDTH), f"{attention}.in_proj_bias": (3 * WIDTH,)}
            shapes |= linear(f"{attention}.out_proj", WIDTH, WIDTH)
            shapes |= linear(f"{block}.ffn.layers.0.0", WIDTH, 4 * WIDTH)
            shapes |= linear(f"{block}.ffn.layers.1", 4 * WIDTH, WIDTH)
    return shapes


def original_upsample_shapes(head, num_convs, kernel):
    shapes = conv(f"{head}.conv_seg", 512, CLASSES, 1, bias=True) | norm(f"{head}.norm", WIDTH)
    for index in range(num_convs):
        in_channels = CHANNELS if index else WIDTH
        shapes |= conv(f"{head}.conv_{index}", in_channels, CHANNELS, kernel, bias=True)
        shapes |= batch_norm(f"{head}.syncbn_fc_{index}", CHANNELS)
    return shapes | conv(f"{head}.conv_{num_convs}", CHANNELS, CLASSES, 1, bias=True)


def mmseg_upsample_shapes(head, num_convs, kernel):
    shapes = conv(f"{head}.conv_seg", CHANNELS, CLASSES, 1, bias=True) | norm(f"{head}.norm", WIDTH)
    for index in range(num_convs):
        module = f"{head}.up_convs.{index}.0"
        shapes |= conv(f"{module}.conv", CHANNELS if index else WIDTH, CHANNELS, kernel, bias=False)
        shapes |= batch_norm(f"{module}.bn", CHANNELS)
    return shapes


def original_mla_shapes():
    shapes = {}
    for index in range(4):
        stream, head = f"backbone.mla.mla_p{index + 2}", f"decode_head.mlahead.head{index + 2}"
        shapes |= norm(f"backbone.norm_{index}", WIDTH)
        shapes |= conv(f"{stream}_1x1.0", WIDTH, CHANNELS, 1, bias=False) | batch_norm(f"{stream}_1x1.1", CHANNELS)
        shapes |= conv(f"{stream}.0", CHANNELS, CHANNELS, 3, bias=False) | batch_norm(f"{stream}.1", CHANNELS)
        shapes |= conv(f"{head}.0", CHANNELS, MLA_CHANNELS, 3, bias=False) | batch_norm(f"{head}.1", MLA_CHANNELS)
        shapes |= conv(f"{head}.3", MLA_CHANNELS, MLA_CHANNELS, 3, bias=False) | batch_norm(f"{head}.4", MLA_CHANNELS)
        shapes |= conv(f"auxiliary_head.{index}.aux", CHANNELS, CLASSES, 1, bias=False)
        shapes |= conv(f"auxiliary_head.{index}.conv_seg", 512, CLASSES, 1, bias=True)
    shapes |= conv("decode_head.conv_seg", 512, CLASSES, 1, bias=True)
    return shapes | conv("decode_head.cls", 4 * MLA_CHANNELS, CLASSES, 3, bias=True)


def mmseg_mla_shapes():
    shapes = {}
    for index in range(4):
        projection, extraction = f"neck.mla.channel_proj.{index}", f"neck.mla.feat_extract.{index}"
        shapes |= norm(f"neck.norm.{index}", WIDTH)
        shapes |= conv(f"{projection}.conv", WIDTH, CHANNELS, 1, bias=False) | batch_norm(f"{projection}.bn", CHANNELS)
        shapes |= conv(f"{extraction}.conv", CHANNELS, CHANNELS, 3, False) | batch_norm(f"{extraction}.bn", CHANNELS)
        for part, in_channels in enumerate((CHANNELS, MLA_CHANNELS)):
            branch = f"decode_head.up_convs.{index}.{part}"
            shapes |= conv(f"{branch}.conv", in_channels, MLA_CHANNELS, 3, bias=False)
            shapes |= batch_norm(f"{branch}.bn", MLA_CHANNELS)
        shapes |= conv(f"auxiliary_head.{index}.conv_seg", CHANNELS, CLASSES, 1, bias=True)
    return shapes | conv("decode_head.conv_seg", 4 * MLA_CHANNELS, CLASSES, 1, bias=True)


def stand_in(implementation, decoder, grid=GRID, patch_bias=True, auxiliary_convs=1) -> dict[str, torch.Tensor]:
    """The state dict of a network of `implementation`, "original" or "mmseg"."""
    naming = "timm" if implementation == "original" else "mmseg"
    shapes = vit_shapes(naming, "backbone.", grid, patch_bias)
    if decoder == "mla":
        shapes |= original_mla_shapes() if implementation == "original" else mmseg_mla_shapes()
    else:
        head_shapes = original_upsample_shapes if implementation == "original" else mmseg_upsample_shapes
        num_convs, kernel = (1, 1) if decoder == "naive" else (4, 3)
        shapes |= head_shapes("decode_head", num_convs, kernel)
        for index in range(len(AUXILIARY_LAYERS[implementation, decoder])):
            shapes |= head_shapes(f"auxiliary_head.{index}", auxiliary_convs, kernel)
    return {key: fill(key, shape) for key, shape in shapes.items()}


def encode(state, implementation, pixel_values, with_class_token):
    """The outputs of all layers, on the patch grid."""
    timm = implementation == "original"
    patch = "backbone.patch_embed." + ("proj" if timm else "projection")
    maps = F.conv2d(pixel_values, state[f"{patch}.weight"], state.get(f"{patch}.bias"), stride=16)
    tokens = maps.flatten(2).transpose(1, 2)
    tokens = torch.cat([state["backbone.cls_token"].expand(len(tokens), -1, -1), tokens], dim=1)
    tokens = (tokens + state["backbone.pos_embed"])[:, 0 if with_class_token else 1 :]
    outputs = []
    for index in range(DEPTH):
        layer = f"backbone.blocks.{index}." if timm else f"backbone.layers.{index}."
        names = ("norm1", "attn.qkv.", "attn.proj", "norm2", "mlp.fc1", "mlp.fc2")
        if not timm:
            names = ("ln1", "attn.attn.in_proj_", "attn.attn.out_proj", "ln2", "ffn.layers.0.0", "ffn.layers.1")
        norm1, qkv, out, norm2, fc1, fc2 = (layer + name for name in names)

        def apply(function, name, x):
            return function(x, state[f"{name}.weight"], state[f"{name}.bias"])

        def layer_norm(x, weight, bias):
            return F.layer_norm(x, (WIDTH,), weight, bias, eps=1e-6)

        heads = F.linear(apply(layer_norm, norm1, tokens), state[f"{qkv}weight"], state[f"{qkv}bias"])
        query, key, value = heads.unflatten(2, (3, HEADS, -1)).permute(2, 0, 3, 1, 4)
        attended = (query @ key.transpose(2, 3) / math.sqrt(WIDTH // HEADS)).softmax(-1) @ value
        tokens = tokens + apply(F.linear, out, attended.transpose(1, 2).flatten(2))
        hidden = F.gelu(apply(F.linear, fc1, apply(layer_norm, norm2, tokens)))
        tokens = tokens + apply(F.linear, fc2, hidden)
        outputs.append(tokens[:, int(with_class_token) :].transpose(1, 2).unflatten(2, tuple(maps.shape[-2:])))
    return outputs


def conv_norm_relu(state, maps, conv_name, norm_name):
    weight = state[f"{conv_name}.weight"]
    maps = F.conv2d(maps, weight, state.get(f"{conv_name}.bias"), padding=weight.shape[-1] // 2)
    mean, variance, weight, bias = (
        state[f"{norm_name}.{part}"] for part in ("running_mean", "running_var", "weight", "bias")
    )
    return F.relu(F.batch_norm(maps, mean, variance, weight, bias))


def channel_norm(state, maps, name):
    normalized = F.layer_norm(
        maps.permute(0, 2, 3, 1), (WIDTH,), state[f"{name}.weight"], state[f"{name}.bias"], eps=1e-6
    )
    return normalized.permute(0, 3, 1, 2)


def enlarge(maps, factor, align_corners=False):
    return F.interpolate(maps, scale_factor=factor, mode="bilinear", align_corners=align_corners)


def classify(state, maps, name):
    weight = state[f"{name}.weight"]
    return F.conv2d(maps, weight, state.get(f"{name}.bias"), padding=weight.shape[-1] // 2)


def upsample_head(state, implementation, maps, head, num_convs, factor):
    """Every upsampling where its publication has it: after each convolution, before the classifier."""
    maps = channel_norm(state, maps, f"{head}.norm")
    for index in range(num_convs):
        names = (f"{head}.conv_{index}", f"{head}.syncbn_fc_{index}")
        if implementation == "mmseg":
            names = (f"{head}.up_convs.{index}.0.conv", f"{head}.up_convs.{index}.0.bn")
        maps = enlarge(conv_norm_relu(state, maps, *names), factor)
    return classify(state, maps, f"{head}.conv_seg" if implementation == "mmseg" else f"{head}.conv_{num_convs}")


def original_mla_head(state, streams):
    total, aggregated = 0, [None] * 4
    for index in (3, 2, 1, 0):
        stream = f"backbone.mla.mla_p{index + 2}"
        maps = channel_norm(state, streams[index], f"backbone.norm_{index}")
        total = conv_norm_relu(state, maps, f"{stream}_1x1.0", f"{stream}_1x1.1") + total
        aggregated[index] = conv_norm_relu(state, total, f"{stream}.0", f"{stream}.1")
    branches = []
    for index, maps in enumerate(aggregated):
        head = f"decode_head.mlahead.head{index + 2}"
        maps = conv_norm_relu(state, maps, f"{head}.0", f"{head}.1")
        branches.append(enlarge(conv_norm_relu(state, maps, f"{head}.3", f"{head}.4"), 4, align_corners=True))
    auxiliary = [classify(state, maps, f"auxiliary_head.{index}.aux") for index, maps in enumerate(aggregated)]
    return classify(state, torch.cat(branches, dim=1), "decode_head.cls"), auxiliary


def mmseg_mla_head(state, streams):
    projected = []
    for index, maps in enumerate(streams):
        projection = f"neck.mla.channel_proj.{index}"
        maps = channel_norm(state, maps, f"neck.norm.{index}")
        projected.append(conv_norm_relu(state, maps, f"{projection}.conv", f"{projection}.bn"))
    total, emitted = 0, []
    for index, maps in enumerate(reversed(projected)):
        total = total + maps
        extraction = f"neck.mla.feat_extract.{index}"
        emitted.append(conv_norm_relu(state, total, f"{extraction}.conv", f"{extraction}.bn"))
    branches = []
    for index, maps in enumerate(emitted):
        for part in range(2):
            branch = f"decode_head.up_convs.{index}.{part}"
            maps = conv_norm_relu(state, maps, f"{branch}.conv", f"{branch}.bn")
        branches.append(enlarge(maps, 4))
    auxiliary = [classify(state, maps, f"auxiliary_head.{index}.conv_seg") for index, maps in enumerate(emitted)]
    return classify(state, torch.cat(branches, dim=1), "decode_head.conv_seg"), auxiliary


def forward(state, implementation, decoder, pixel_values, auxiliary_convs=1):
    """Logits and auxiliary logits, shallowest layer first, at the size of the images."""
    outputs = encode(state, implementation, pixel_values, with_class_token=decoder != "mla")
    if decoder == "mla":
        streams = [outputs[layer - 1] for layer in MLA_LAYERS]
        head = original_mla_head if implementation == "original" else mmseg_mla_head
        logits, auxiliary = head(state, streams)
        auxiliary = auxiliary if implementation == "original" else auxiliary[::-1]
    else:
        num_convs, factor = (4, 2) if decoder == "pup" else (1, 1 if implementation == "original" else 4)
        logits = upsample_head(state, implementation, outputs[-1], "decode_head", num_convs, factor)
        factor = 1 if (implementation, decoder) == ("original", "naive") else 4
        auxiliary = [
            upsample_head(
                state, implementation, outputs[layer - 1], f"auxiliary_head.{index}", auxiliary_convs, factor
            )
            for index, layer in enumerate(AUXILIARY_LAYERS[implementation, decoder])
        ]
    size = pixel_values.shape[-2:]
    return resize_to(logits, size), [resize_to(maps, size) for maps in auxiliary]


def resize_to(maps, size):
    return F.interpolate(maps, size=tuple(size), mode="bilinear", align_corners=False)
