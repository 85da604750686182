"""The page: photos in, the viewer and files out."""

from pathlib import Path
from typing import Any

import gradio as gr
from PIL import Image

from ..errors import SetrError
from ..files import IMAGE_SUFFIXES
from .segmenting import Limits, Segmenting
from .view import ResultFiles, shown_photo, shown_prediction, shown_size


FOLDER = Path(__file__).parent
THUMBNAIL = 160
NO_MODEL = "none"
PROTOCOLS = {"one scale": "single", "several scales, mirrored": "multi"}
CSS = ".gradio-container { max-width: 1200px !important; margin: 0 auto; } footer { display: none !important; }"


def viewer() -> gr.HTML:
    parts = {name: (FOLDER / f"viewer.{name}").read_text(encoding="utf-8") for name in ("html", "css", "js")}
    return gr.HTML(
        value="", html_template=parts["html"], css_template=parts["css"], js_on_load=parts["js"], elem_id="viewer"
    )


def thumbnails(paths: list[str], segmenting: Segmenting) -> tuple[list[tuple[Image.Image, str]], list[str], list[str]]:
    """Small pictures with names of the photos that can be read, their paths, and why others cannot."""
    pictures, usable, failures = [], [], []
    for path in paths:
        try:
            photo = segmenting.read(path)
        except SetrError as error:
            failures.append(str(error))
            continue
        photo.thumbnail((THUMBNAIL, THUMBNAIL))
        pictures.append((photo, Path(path).name))
        usable.append(path)
    return pictures, usable, failures


def take(files: list[str] | None, segmenting: Segmenting) -> tuple[Any, list[str], int]:
    """The gallery, the paths and the chosen photo after photos were dropped; warns of what is left out."""
    photos = [path for path in files or [] if Path(path).suffix.lower() in IMAGE_SUFFIXES]
    if files and not photos:
        raise gr.Error("None of these files is a photo: JPEG, PNG, TIFF, WebP or BMP.")
    most = segmenting.limits.photos
    if len(photos) > most:
        gr.Warning(f"Only the first {most} of {len(photos)} photos are taken.")
    pictures, usable, failures = thumbnails(photos[:most], segmenting)
    for failure in failures[:3]:
        gr.Warning(failure)
    if photos and not usable:
        raise gr.Error(failures[0])
    return gr.Gallery(pictures, visible=len(pictures) > 1, selected_index=None), usable, 0


def build(segmenting: Segmenting) -> gr.Blocks:
    """The app; `launch` of what is returned serves it, with the options of [`launch_options`]."""
    limits, names, files = segmenting.limits, list(segmenting.models), ResultFiles()

    def segment(paths: list[str], index: int, model: str, other: str, protocol: str) -> tuple[str, Any, Any]:
        if not paths:
            return "", gr.DownloadButton(interactive=False), gr.DownloadButton(interactive=False)
        try:
            photo = segmenting.read(paths[index])
            models = dict.fromkeys([model, *([] if other == NO_MODEL else [other])])
            results = [(name, *segmenting.predict(photo, name, PROTOCOLS[protocol])) for name in models]
        except SetrError as error:
            raise gr.Error(str(error)) from error
        shown = [shown_prediction(*result, shown_size(photo)) for result in results]
        _, prediction, config = results[0]
        written = files.write(Path(paths[index]).stem, prediction, config)
        buttons = [gr.DownloadButton(value=path, interactive=True) for path in written]
        return shown_photo(photo, shown), *buttons

    def choose(event: gr.SelectData) -> int:
        return event.index

    with gr.Blocks(title="SETR", analytics_enabled=False, delete_cache=(3600, 3600)) as page:
        paths, index = gr.State([]), gr.State(0)
        gr.Markdown("# SETR\nWhat is where in a photo. Point at it for the class, press a name to see it alone.")
        with gr.Row():
            with gr.Column(scale=1, min_width=280):
                size = f"up to {limits.megabytes} MB and {limits.megapixels:g} megapixels each"
                dropped = gr.File(
                    file_count="multiple", file_types=["image"], label=f"Photos, {size}", elem_id="photos", height=140
                )
                folder = gr.UploadButton("A folder of photos", file_count="directory", elem_id="folder")
                model = gr.Dropdown(names, value=names[0], label="Model", elem_id="model")
                other = gr.Dropdown(
                    [NO_MODEL, *names], value=NO_MODEL, label="Compare with", visible=len(names) > 1, elem_id="other"
                )
                protocol = gr.Radio(list(PROTOCOLS), value=next(iter(PROTOCOLS)), label="Protocol", elem_id="protocol")
            with gr.Column(scale=3, min_width=320):
                picture = viewer()
                with gr.Row():
                    label_map = gr.DownloadButton("Label map (PNG of class ids)", interactive=False, elem_id="labels")
                    overlay = gr.DownloadButton("Overlay with legend", interactive=False, elem_id="overlay")
                gallery = gr.Gallery(
                    visible=False, columns=6, height="auto", allow_preview=False, label="Photos", elem_id="gallery"
                )

        inputs, outputs = [paths, index, model, other, protocol], [picture, label_map, overlay]
        # One photo at a time, whoever asks.
        turn = {"concurrency_limit": 1, "concurrency_id": "segment", "api_name": False}
        for source in (dropped, folder):
            taken = source.upload(
                lambda found: take(found, segmenting), source, [gallery, paths, index], api_name=False
            )
            taken.success(segment, inputs, outputs, **turn)
        chosen = gallery.select(choose, None, index, api_name=False)
        chosen.success(segment, inputs, outputs, **turn)
        for setting in (model, other, protocol):
            setting.change(segment, inputs, outputs, **turn)
        dropped.clear(lambda: ([], 0, ""), None, [paths, index, picture], api_name=False)
    page.queue(max_size=limits.waiting, api_open=False)
    return page


def launch_options(limits: Limits) -> dict[str, Any]:
    """The options of `launch` that keep strangers within their limits."""
    return {"max_file_size": f"{limits.megabytes}mb", "css": CSS, "footer_links": [], "show_error": False}
