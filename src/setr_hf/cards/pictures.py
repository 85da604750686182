"""Pictures of a model card as small PNG files, the same bytes for the same content and libraries."""

from pathlib import Path

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from ..files import whole_file


DPI = 110
NUM_COLORS = 64


def save_figure(figure: Figure, path: Path, description: str) -> None:
    """Writes a figure of few colours as PNG, with what it shows as its description."""
    figure.set_dpi(DPI)
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    picture = Image.fromarray(np.asarray(canvas.buffer_rgba())).convert("RGB").quantize(NUM_COLORS)
    text = PngInfo()
    text.add_itxt("Description", description)
    with whole_file(path) as unfinished:
        picture.save(unfinished, optimize=True, pnginfo=text)
