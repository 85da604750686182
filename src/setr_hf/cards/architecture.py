"""A picture of a SETR, drawn from its configuration: encoder, layers that are read, decoder and auxiliary heads."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch, Rectangle

from ..model.configuration_setr import SetrConfig


# Of boxes, in inches, as everything here.
WIDTH, HEIGHT, GAP, ROW = 1.3, 0.46, 0.24, 0.92
ENCODER_LEFT, ENCODER_WIDTH, HEADS_LEFT = 1.75, 1.3, 4.0
READ, UNREAD, DECODER, AUXILIARY, LINE = "#f2a65a", "#dde3ea", "#bcd8c1", "#e8e4da", "#5b6470"
FONT_SIZE = 7.5


@dataclass(frozen=True)
class Grid:
    """Height and width of feature maps, in pixels of the maps."""

    height: int
    width: int

    def __mul__(self, factor: int) -> "Grid":
        return Grid(self.height * factor, self.width * factor)

    def __str__(self) -> str:
        return f"{self.height} × {self.width}"


def window_size(config: SetrConfig) -> Grid:
    """The size of the images that the position embeddings are made for."""
    size = config.image_size
    return Grid(size, size) if isinstance(size, int) else Grid(*size)


def patch_grid(config: SetrConfig) -> Grid:
    window = window_size(config)
    return Grid(-(-window.height // config.patch_size), -(-window.width // config.patch_size))


def upsample_steps(config: SetrConfig, num_convs: int, scale_factor: int) -> tuple[list[str], Grid]:
    """The steps of a naive or PUP head as [`SetrUpsampleHead`] takes them, and the size of its logits."""
    grid, kernel = patch_grid(config), config.decoder_kernel_size
    convolution = f"{kernel}×{kernel} conv, {config.decoder_hidden_size}"
    steps = ["LayerNorm"]
    for _ in range(num_convs - 1):
        grid *= scale_factor
        steps.append(f"{convolution}\n×{scale_factor} to {grid}" if scale_factor > 1 else convolution)
    steps.append(convolution)
    classifier = f"1×1 conv, {config.num_labels}"
    # The last upsampling up to the image's size is left to the resizing of the logits.
    if scale_factor > 1 and scale_factor**num_convs != config.patch_size:
        grid *= scale_factor
        classifier += f"\n×{scale_factor} to {grid}"
    return [*steps, classifier], grid


def logits_size(config: SetrConfig) -> Grid:
    """The size of the logits for an image of [`window_size`]."""
    if config.decoder_type == "mla":
        return patch_grid(config) * 4
    return upsample_steps(config, config.decoder_num_convs, config.decoder_scale_factor)[1]


def decoder_name(config: SetrConfig) -> str:
    """As the paper writes it after "SETR-"."""
    return "Naive" if config.decoder_type == "naive" else config.decoder_type.upper()


def encoder_name(config: SetrConfig) -> str:
    if config.stem_config is not None:
        stem: Any = config.stem_config
        return f"{stem.model_type} + ViT"
    return getattr(config.backbone_config, "model_type", "ViT")


def joined(numbers: Sequence[int]) -> str:
    """Numbers as in a sentence: "6, 12 and 18"."""
    *others, last = map(str, numbers)
    return f"{', '.join(others)} and {last}" if others else last


def architecture_text(config: SetrConfig) -> str:
    """What the picture shows, in a sentence."""
    read = f"layer{'s' * (len(config.decoder_indices) > 1)} {joined(config.decoder_indices)}"
    auxiliary = config.auxiliary_out_indices
    heads = f"; auxiliary heads on layer{'s' * (len(auxiliary) > 1)} {joined(auxiliary)}" if auxiliary else ""
    logits = "a logit of the foreground" if config.is_binary else f"logits of {config.num_labels} classes"
    return (
        f"SETR-{decoder_name(config)}: {encoder_name(config)} encoder of {config.num_hidden_layers} layers of width "
        f"{config.hidden_size} with {config.num_attention_heads} heads on {patch_grid(config)} patches of a "
        f"{window_size(config)} window; the decoder reads {read} and gives {logits} at "
        f"{logits_size(config)}{heads}"
    )


def write(
    axes: Axes, x: float, y: float, text: str, ha: str = "center", fontsize: float = FONT_SIZE, **style: Any
) -> None:
    axes.text(x, y, text, ha=ha, va="center", fontsize=fontsize, parse_math=False, **style)


def box(
    axes: Axes, left: float, y: float, text: str, color: str, width: float = WIDTH, height: float = HEIGHT
) -> float:
    """A box whose middle is at height `y`; returns its right edge."""
    shape = "round,pad=0,rounding_size=0.08"
    axes.add_patch(FancyBboxPatch((left, y - height / 2), width, height, shape, fc=color, ec=LINE, lw=0.8))
    write(axes, left + width / 2, y, text)
    return left + width


def arrow(axes: Axes, points: list[tuple[float, float]]) -> None:
    """A line through `points` with a head at its end."""
    axes.plot(*zip(*points), color=LINE, lw=0.9, solid_joinstyle="round", zorder=0)
    axes.annotate("", points[-1], points[-2], arrowprops={"arrowstyle": "-|>", "color": LINE, "lw": 0.9, "shrinkA": 0})


def chain(axes: Axes, left: float, y: float, steps: list[str], color: str) -> float:
    """Boxes in a row with arrows between them; returns the right edge."""
    right = box(axes, left, y, steps[0], color)
    for step in steps[1:]:
        arrow(axes, [(right, y), (right + GAP, y)])
        right = box(axes, right + GAP, y, step, color)
    return right


def draw_encoder(axes: Axes, config: SetrConfig, bottom: float, top: float, rows: list[tuple[int, float]]) -> None:
    """The window, its patches and the layers, of which those in `rows` are read, each at the height of its row."""
    middle = (bottom + top) / 2
    window, grid, side = window_size(config), patch_grid(config), config.patch_size
    box(axes, 0.1, middle + 0.65, f"window\n{window} × {config.num_channels}", "white", 1.2)
    arrow(axes, [(0.7, middle + 0.42), (0.7, middle + 0.25)])
    box(axes, 0.1, middle, f"{side}×{side} patches\n{grid} tokens", UNREAD, 1.2)
    token = " and the\nclass token" if config.use_class_token else ""
    write(axes, 0.7, middle - 0.5, f"position embeddings{token}", fontsize=6.5)
    arrow(axes, [(1.3, middle), (1.5, middle), (1.5, bottom - 0.12), (2.4, bottom - 0.12), (2.4, bottom)])
    step = (top - bottom) / config.num_hidden_layers
    read = {layer for layer, _ in rows}
    for layer in range(1, config.num_hidden_layers + 1):
        color = READ if layer in read else UNREAD
        y = bottom + (layer - 1) * step
        axes.add_patch(Rectangle((ENCODER_LEFT, y), ENCODER_WIDTH, 0.82 * step, fc=color, ec=LINE, lw=0.5))
    title = f"{encoder_name(config)} encoder, {config.num_hidden_layers} layers\nwidth {config.hidden_size}, "
    write(axes, 2.4, top + 0.2, title + f"{config.num_attention_heads} heads")
    for layer, y in rows:
        height = bottom + (layer - 0.59) * step if layer else bottom - 0.12
        start = ENCODER_LEFT + ENCODER_WIDTH
        arrow(axes, [(start, height), (start + 0.22, height), (start + 0.45, y), (HEADS_LEFT, y)])
        write(axes, HEADS_LEFT - 0.05, y + 0.11, f"layer {layer}", ha="right", fontsize=6.5)


def draw_upsample_heads(axes: Axes, config: SetrConfig, rows: list[tuple[int, float]]) -> float:
    """The naive or PUP decoder in the first of `rows`, and an auxiliary head in each of the others."""
    steps, grid = upsample_steps(config, config.decoder_num_convs, config.decoder_scale_factor)
    y = rows[0][1]
    right = chain(axes, HEADS_LEFT, y, steps, DECODER)
    write(axes, right + 0.1, y, f"logits\n{grid} × {config.num_labels}", ha="left")
    for _, y in rows[1:]:
        steps, grid = upsample_steps(config, config.auxiliary_num_convs, config.auxiliary_scale_factor)
        end = chain(axes, HEADS_LEFT, y, steps, AUXILIARY)
        text = f"loss weight {config.auxiliary_loss_weight:g}\nlogits {grid}"
        write(axes, end + 0.1, y, text, ha="left", fontsize=6.5)
        right = max(right, end)
    return right + 1.25


def draw_mla_head(axes: Axes, config: SetrConfig, rows: list[tuple[int, float]]) -> float:
    """The MLA decoder: a stream in each of `rows`, the deepest first."""
    channels, labels, kernel = config.decoder_hidden_size, config.num_labels, config.mla_classifier_kernel_size
    corners = "aligned corners" if config.mla_align_corners else "corners not aligned"
    sums = HEADS_LEFT + WIDTH + GAP + 0.1
    above = None
    for _, y in rows:
        right = box(axes, HEADS_LEFT, y, f"LayerNorm\n1×1 conv, {channels}", DECODER)
        arrow(axes, [(right, y), (sums - 0.1, y)])
        write(axes, sums, y, "+", bbox={"boxstyle": "circle,pad=0.15", "fc": "white", "ec": LINE, "lw": 0.8})
        if above is not None:
            arrow(axes, [(sums, above - 0.12), (sums, y + 0.13)])
        above, left = y, sums + 0.1 + GAP
        arrow(axes, [(left - GAP, y), (left, y)])
        if config.auxiliary_out_indices:
            axes.plot([left + WIDTH / 2] * 2, [y, y - 0.4], color=LINE, lw=0.9, zorder=0)
            box(axes, left, y - 0.41, f"auxiliary: 1×1 conv, {labels}", AUXILIARY, WIDTH, 0.2)
        enlarged = f"×4 to {logits_size(config)}\n{corners}"
        steps = [f"3×3 conv, {channels}", f"two 3×3 convs, {config.mla_hidden_size}", enlarged]
        right = chain(axes, left, y, steps, DECODER)
        arrow(axes, [(right, y), (right + GAP, y)])
    middle, height = (rows[0][1] + rows[-1][1]) / 2, rows[0][1] - rows[-1][1] + HEIGHT
    text = f"concatenate\n{len(rows) * config.mla_hidden_size}"
    right = box(axes, right + GAP, middle, text, DECODER, 0.95, height)
    arrow(axes, [(right, middle), (right + GAP, middle)])
    right = box(axes, right + GAP, middle, f"{kernel}×{kernel} conv, {labels}", DECODER, 1.1)
    write(axes, right - 0.55, middle - 0.45, f"logits\n{logits_size(config)} × {labels}")
    return right + 0.1


def architecture_figure(config: SetrConfig) -> Figure:
    """The picture of a model: what its decoder and auxiliary heads read, and the sizes of what they compute."""
    is_mla = config.decoder_type == "mla"
    layers = list(config.decoder_indices[::-1]) + ([] if is_mla else list(config.auxiliary_out_indices[::-1]))
    top = max(ROW * (len(layers) - 1) + 0.9, 2.6)
    spacing = (top - 0.9) / max(len(layers) - 1, 1)
    rows = [(layer, top - 0.25 - index * spacing) for index, layer in enumerate(layers)]
    figure = Figure()
    axes = figure.add_axes((0, 0, 1, 1))
    draw_encoder(axes, config, 0.4, top, rows)
    right = (draw_mla_head if is_mla else draw_upsample_heads)(axes, config, rows)
    figure.set_size_inches(right, top + 0.5)
    axes.set(xlim=(0, right), ylim=(0, top + 0.5))
    axes.axis("off")
    return figure
