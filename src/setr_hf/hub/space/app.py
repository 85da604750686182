"""The app with one published model, as a Space of the Hub."""

import json
from pathlib import Path

from huggingface_hub import snapshot_download

from setr_hf.app.interface import build, launch_options
from setr_hf.app.segmenting import Limits, Segmenting


MODEL = json.loads(Path(__file__).with_name("model.json").read_text(encoding="utf-8"))
LIMITS = Limits()
page = build(Segmenting({MODEL["id"]: snapshot_download(MODEL["id"], revision=MODEL["revision"])}, LIMITS))


if __name__ == "__main__":
    page.launch(**launch_options(LIMITS))
