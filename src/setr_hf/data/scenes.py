"""Generated street scenes with label maps, for demonstrations and tests that need neither a network nor files."""

import colorsys
from collections.abc import Sequence

import numpy as np
from datasets import Dataset, Features, Image, Value
from PIL import Image as PILImage
from PIL import ImageDraw

from .label_sets import LabelSet
from .public_datasets import read_colours
from .rows import SegmentationData


CLASSES = ("sky", "grass", "road", "building", "tree", "car", "water", "balloon")
PALETTE = read_colours("87c4f5 7cbd4b 7d7d82 b0603e 1d662a d62839 2654c4 f7be2e")
HEIGHT, WIDTH = 128, 160


class Canvas:
    """A photo and its label map, painted together: later shapes hide earlier ones in both."""

    def __init__(self, rng: np.random.Generator) -> None:
        self.rng = rng
        self.pixels = np.zeros((HEIGHT, WIDTH, 3), dtype=np.float32)
        self.label_map = np.zeros((HEIGHT, WIDTH), dtype=np.uint8)

    def paint(self, name: str, shape: str, points: Sequence, texture: np.ndarray) -> None:
        """Fills a shape of ImageDraw ("polygon", "ellipse", "rectangle") with a class and with a part of a texture."""
        mask = PILImage.new("1", (WIDTH, HEIGHT))
        getattr(ImageDraw.Draw(mask), shape)(points, fill=1)
        inside = np.asarray(mask)
        self.pixels[inside] = texture[inside]
        self.label_map[inside] = CLASSES.index(name)

    def integer(self, low: int, high: int) -> int:
        """A random integer from `low` up to `high`, exclusive."""
        return int(self.rng.integers(low, high))

    def texture(self, colour: Sequence[float], roughness: float, grain: int = 1) -> np.ndarray:
        """A colour with noise in cells of `grain` pixels; `roughness` is the noise's standard deviation, 0 to 255."""
        cells = self.rng.normal(0, roughness, (-(-HEIGHT // grain), -(-WIDTH // grain), 1))
        noise = cells.repeat(grain, axis=0).repeat(grain, axis=1)[:HEIGHT, :WIDTH]
        return np.asarray(colour, dtype=np.float32) + noise + self.rng.normal(0, 3, (HEIGHT, WIDTH, 3))

    def hue(self, center: float, spread: float, lightness: float, saturation: float) -> list[float]:
        """A random colour near a hue (0 to 1)."""
        red_green_blue = colorsys.hls_to_rgb((center + self.rng.uniform(-spread, spread)) % 1, lightness, saturation)
        return [255 * value for value in red_green_blue]


def draw_backdrop(canvas: Canvas, horizon: int) -> None:
    rng = canvas.rng
    fade = np.linspace(0, rng.uniform(20, 60), HEIGHT)[:, None, None]
    sky = canvas.texture(canvas.hue(0.57, 0.05, rng.uniform(0.5, 0.7), 0.6), 4, grain=16) + fade
    canvas.paint("sky", "rectangle", (0, 0, WIDTH, horizon), sky)
    grass = canvas.texture(canvas.hue(0.27, 0.05, rng.uniform(0.25, 0.4), 0.5), 18, grain=2)
    canvas.paint("grass", "rectangle", (0, horizon, WIDTH, HEIGHT), grass)


def draw_water(canvas: Canvas, horizon: int) -> None:
    rng = canvas.rng
    waves = 14 * np.sin(np.arange(HEIGHT) * rng.uniform(0.8, 1.6))[:, None, None]
    water = canvas.texture(canvas.hue(0.6, 0.03, rng.uniform(0.3, 0.45), 0.6), 5, grain=4) + waves
    left, top = canvas.integer(-20, WIDTH - 40), canvas.integer(horizon + 8, HEIGHT - 20)
    canvas.paint("water", "ellipse", (left, top, left + canvas.integer(40, 90), top + canvas.integer(18, 36)), water)


def draw_road(canvas: Canvas, horizon: int) -> None:
    far, near, width = canvas.integer(20, WIDTH - 20), canvas.integer(0, WIDTH), canvas.integer(25, 50)
    asphalt = canvas.texture([canvas.rng.uniform(90, 140)] * 3, 8)
    corners = [(far - 4, horizon), (far + 4, horizon), (near + width, HEIGHT), (near - width, HEIGHT)]
    canvas.paint("road", "polygon", corners, asphalt)


def draw_building(canvas: Canvas, horizon: int) -> None:
    rng = canvas.rng
    left, width = canvas.integer(-10, WIDTH - 20), canvas.integer(24, 52)
    top, bottom = canvas.integer(6, max(7, horizon - 16)), horizon + canvas.integer(2, 10)
    wall = canvas.texture(canvas.hue(0.06, 0.04, rng.uniform(0.35, 0.6), rng.uniform(0.2, 0.5)), 10, grain=3)
    rows, columns = np.mgrid[0:HEIGHT, 0:WIDTH]
    windows = ((rows - top) % 10 > 5) & ((columns - left) % 9 > 4)
    wall[windows] = rng.choice([(60, 70, 90), (235, 220, 140)])
    canvas.paint("building", "rectangle", (left, top, left + width, bottom), wall)


def draw_tree(canvas: Canvas, horizon: int) -> None:
    x, base, size = canvas.integer(0, WIDTH), horizon + canvas.integer(4, 30), canvas.integer(14, 26)
    bark = canvas.texture((95, 62, 35), 10)
    canvas.paint("tree", "rectangle", (x - 3, base - size, x + 3, base), bark)
    leaves = canvas.texture(canvas.hue(0.36, 0.04, canvas.rng.uniform(0.15, 0.28), 0.6), 22, grain=3)
    canvas.paint("tree", "ellipse", (x - size, base - 3 * size, x + size, base - size // 2), leaves)


def draw_car(canvas: Canvas, horizon: int) -> None:
    length, x, base = canvas.integer(30, 48), canvas.integer(0, WIDTH - 30), canvas.integer(horizon + 18, HEIGHT - 2)
    height = length // 2
    body = canvas.texture(canvas.hue(canvas.rng.uniform(), 0, 0.5, 0.9), 4)
    glass, tyre = canvas.texture((170, 200, 215), 4), canvas.texture((25, 25, 28), 4)
    canvas.paint("car", "rectangle", (x + length // 5, base - height, x + 4 * length // 5, base - height // 2), glass)
    canvas.paint("car", "rectangle", (x, base - 2 * height // 3, x + length, base - height // 6), body)
    for wheel in (x + length // 5, x + 4 * length // 5):
        radius = height // 4
        canvas.paint("car", "ellipse", (wheel - radius, base - 2 * radius, wheel + radius, base), tyre)


def draw_balloon(canvas: Canvas, horizon: int) -> None:
    x, y = canvas.integer(12, WIDTH - 12), canvas.integer(10, max(11, horizon - 6))
    radius = canvas.integer(10, 18)
    stripes = np.arange(WIDTH) // 4 % 2 == 0
    silk = canvas.texture(canvas.hue(0.13, 0.04, 0.55, 0.95), 4)
    silk[:, stripes] = canvas.texture(canvas.hue(0.95, 0.05, 0.5, 0.9), 4)[:, stripes]
    canvas.paint("balloon", "ellipse", (x - radius, y - radius, x + radius, y + radius), silk)


# In the order in which they hide each other, with the largest number of each in a scene.
DRAWINGS = {draw_water: 1, draw_road: 1, draw_balloon: 2, draw_building: 3, draw_tree: 3, draw_car: 2}


def draw_scene(seed: int) -> tuple[PILImage.Image, PILImage.Image]:
    """The scene of a seed: an RGB photo and its label map of ids into `CLASSES`, both of `WIDTH` × `HEIGHT` pixels."""
    rng = np.random.default_rng(seed)
    canvas = Canvas(rng)
    horizon = canvas.integer(HEIGHT * 2 // 5, HEIGHT * 3 // 5)
    draw_backdrop(canvas, horizon)
    for draw, most in DRAWINGS.items():
        for _ in range(canvas.integer(0, most + 1)):
            draw(canvas, horizon)
    light = rng.uniform(0.75, 1.2)
    pixels = (canvas.pixels * light).clip(0, 255).astype(np.uint8)
    return PILImage.fromarray(pixels), PILImage.fromarray(canvas.label_map)


def make_scenes(count: int, first_seed: int = 0) -> SegmentationData:
    """Generated street scenes of 8 classes, 160 × 128 pixels, the same everywhere; seeds from `first_seed` on."""
    seeds = range(first_seed, first_seed + count)
    images, annotations = zip(*map(draw_scene, seeds))
    columns = {"image": images, "annotation": annotations, "name": [f"scene_{seed}" for seed in seeds]}
    features = Features({"image": Image(), "annotation": Image(), "name": Value("string")})
    return SegmentationData(
        Dataset.from_dict(columns, features=features), LabelSet.direct(list(CLASSES), palette=PALETTE)
    )
