"""Label maps of `setr-hf export --whole-protocol` beside those of `pipeline("image-segmentation")`: how many pixels
agree in photos of 50 sizes, and with `--speed` time and peak memory for a large photo.

python scripts/benchmarks/whole_protocol.py --photo PHOTO
"""

import os
import subprocess
import sys
import time
from argparse import ArgumentParser, Namespace
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

import numpy as np
import torch
from PIL import Image
from transformers import pipeline

from setr_hf import SetrConfig, SetrForSemanticSegmentation, SetrImageProcessor
from setr_hf.export.whole_protocol import export_whole_protocol, load_runtime
from setr_hf.inference.sliding_windows import segment
from setr_hf.model.configuration_setr import DECODER_TYPES
from setr_hf.tables import print_table


CROP = 128
NAMED_SIZES = [(20, 30), (30, 20), (64, 96), (127, 128), (128, 128), (128, 129), (256, 256), (129, 500), (1000, 1500)]
NAMED_SIZES += [(1500, 1000), (20, 900), (900, 20), (1, 1), (100, 1300), (1024, 683)]
# Prints the peak memory in kB of this process, as Linux tells it.
PEAK = "print(next(line.split()[1] for line in open('/proc/self/status') if line.startswith('VmHWM')))"
WORKERS = {
    "segment.py": "import sys; sys.path.insert(0, sys.argv[2]); from segment import segment; import numpy as np; "
    f"segment(np.load(sys.argv[3])); {PEAK}",
    "pipeline": "import sys; from transformers import pipeline; import numpy as np, setr_hf; from PIL import Image; "
    f"pipeline('image-segmentation', sys.argv[1])(Image.fromarray(np.load(sys.argv[3]))); {PEAK}",
}


def sizes() -> list[tuple[int, int]]:
    """Height and width of 50 photos, from the smallest to 1000 × 1500, of all orientations."""
    rng = np.random.default_rng(0)
    others = [
        tuple(int(side) for side in np.exp(rng.uniform(np.log((20, 20)), np.log((1000, 1500))))) for _ in range(50)
    ]
    return [*NAMED_SIZES, *others][:50]


def save_model(folder: Path, decoder_type: str, crop: int, num_labels: int) -> None:
    """A model of four layers with random weights, large enough for label maps of many parts."""
    torch.manual_seed(0)
    config = SetrConfig(
        hidden_size=192,
        num_hidden_layers=4,
        num_attention_heads=3,
        intermediate_size=768,
        image_size=crop,
        decoder_type=decoder_type,
        decoder_hidden_size=64,
        mla_hidden_size=32,
        auxiliary_out_indices=[],
        num_labels=num_labels,
    )
    model = SetrForSemanticSegmentation(config).eval()
    size = {"shortest_edge": crop, "longest_edge": 4 * crop}
    processor = SetrImageProcessor(
        size=size, crop_size=crop, stride=crop * 2 // 3, do_split_image=True, antialias=False
    )
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (12, 12, 3), np.uint8)).resize((2 * crop, crop))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim > 1:
                parameter.normal_(std=0.5 if "embeddings" in name else parameter[0].numel() ** -0.5)
        model.decode_head.classifier.bias -= model(**processor(noise, return_tensors="pt")).logits.mean((0, 1, 3, 4))
    model.save_pretrained(folder)
    processor.save_pretrained(folder)


def label_map_of(segmenter, photo: Image.Image) -> np.ndarray:
    label_map = np.full((photo.height, photo.width), -1)
    for part in segmenter(photo):
        label_map[np.asarray(part["mask"]) > 0] = segmenter.model.config.label2id[part["label"]]
    return label_map


def compare_sizes(folder: Path, photo: Image.Image) -> None:
    rows = []
    for decoder_type in DECODER_TYPES:
        model, output = folder / decoder_type, folder / f"{decoder_type}-onnx"
        save_model(model, decoder_type, CROP, num_labels=19)
        export_whole_protocol(model, output, [photo])
        segmenter, runtime = pipeline("image-segmentation", str(model)), load_runtime(output)
        shares, classes = [], set()
        for height, width in sizes():
            resized = photo.resize((width, height), Image.Resampling.BICUBIC)
            expected, found = label_map_of(segmenter, resized), runtime.segment(np.asarray(resized))
            shares.append((float((expected == found).mean()), f"{height}×{width}"))
            classes |= set(np.unique(found).tolist())
        equal = sum(share == 1 for share, _ in shares)
        mean, (least, worst) = sum(share for share, _ in shares) / len(shares), min(shares)
        row = (decoder_type, len(shares), equal, f"{100 * mean:.5f}", f"{100 * least:.5f}", worst, len(classes))
        rows.append(row)
    header = ("decoder", "sizes", "all pixels equal", "mean, %", "least, %", "at", "classes found")
    print_table(header, rows)


def compare_speed(folder: Path, photo: Image.Image, decoder_type: str, repeats: int) -> None:
    model, output = folder / "large", folder / "large-onnx"
    save_model(model, decoder_type, 512, num_labels=150)
    export_whole_protocol(model, output, [photo])
    large = photo.resize((4000, 3000), Image.Resampling.BICUBIC)
    np.save(folder / "photo.npy", np.asarray(large))
    segmenter, runtime = pipeline("image-segmentation", str(model)), load_runtime(output)
    ours = {"segment.py": lambda: runtime.segment(np.asarray(large)), "pipeline": lambda: segmenter(large)}
    ours["setr_hf.segment"] = lambda: segment(segmenter.model, segmenter.image_processor, [large])
    seconds: dict[str, list[float]] = {name: [] for name in ours}
    for _ in range(repeats):
        for name, run in ours.items():
            start = time.perf_counter()
            run()
            seconds[name].append(time.perf_counter() - start)
    peaks = {}
    for name, code in WORKERS.items():
        command = [sys.executable, "-c", code, model, output, folder / "photo.npy"]
        said = subprocess.run(command, check=True, capture_output=True, text=True).stdout
        peaks[name] = int(said.split()[-1]) * 1024 / 1e6
    rows = [
        (name, f"{median(times):.1f}", f"{peaks[name]:.0f}" if name in peaks else "")
        for name, times in seconds.items()
    ]
    print_table((f"{decoder_type}, 3000×4000, 150 classes", "seconds, median", "peak memory, MB"), rows)


def parse_arguments() -> Namespace:
    parser = ArgumentParser(description=__doc__)
    parser.add_argument("--photo", type=Path, required=True, help="what photos of all sizes are made from")
    parser.add_argument("--speed", choices=DECODER_TYPES, help="measure time and memory with this decoder instead")
    parser.add_argument("--repeats", type=int, default=3, help="of which the median is taken (3)")
    return parser.parse_args()


if __name__ == "__main__":
    arguments = parse_arguments()
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
    photo = Image.open(arguments.photo).convert("RGB")
    with TemporaryDirectory() as folder:
        if arguments.speed:
            compare_speed(Path(folder), photo, arguments.speed, arguments.repeats)
        else:
            compare_sizes(Path(folder), photo)
