"""A photo in, its classes out: the demonstration of a SETR model, as a Space of the Hub."""

import json
from pathlib import Path

import gradio as gr
import numpy as np
from PIL import Image, ImageOps
from transformers import pipeline


MODEL = json.loads(Path(__file__).with_name("model.json").read_text(encoding="utf-8"))
MAX_PIXELS = 25_000_000
SHOWN_SIDE = 1024
segmenter = pipeline("image-segmentation", model=MODEL["id"], revision=MODEL["revision"], trust_remote_code=True)
PALETTE = getattr(segmenter.model.config, "palette", None)


def segment(photo: Image.Image | None) -> tuple[Image.Image, list[tuple[np.ndarray, str]]]:
    """The photo, no side longer than `SHOWN_SIDE` pixels, and a labelled mask of each class, the largest first."""
    if photo is None:
        raise gr.Error("Choose a photo first.")
    if photo.width * photo.height > MAX_PIXELS:
        raise gr.Error(f"The photo has more than {MAX_PIXELS // 1_000_000} megapixels: choose a smaller one.")
    photo = ImageOps.exif_transpose(photo).convert("RGB")
    photo.thumbnail((SHOWN_SIDE, SHOWN_SIDE))
    masks = [(np.asarray(part["mask"]) > 0, part["label"]) for part in segmenter(photo)]
    masks.sort(key=lambda pair: -pair[0].sum())
    return photo, [(mask, f"{label} {mask.mean():.0%}") for mask, label in masks]


with gr.Blocks(title="SETR") as demo:
    gr.Markdown(
        f"# SETR\nSegmentation by [{MODEL['id']}](https://huggingface.co/{MODEL['id']}) at {MODEL['revision']}."
    )
    with gr.Row():
        photo = gr.Image(type="pil", label="photo")
        picture = gr.AnnotatedImage(label="classes and their share of the photo")
    gr.Button("Segment", variant="primary").click(segment, photo, picture, concurrency_limit=1)


if __name__ == "__main__":
    demo.queue(max_size=20).launch()
