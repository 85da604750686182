"""The README's example for the stock `Trainer`, run as it stands but for its folders and its length."""

import subprocess
import sys

from paths import ROOT
from transformers import pipeline

from setr_hf import SetrImageProcessor
from setr_hf.data.scenes import CLASSES


README = ROOT / "README.md"
MARK = "<!-- tests/test_readme.py runs this -->\n```python\n"


def test_the_stock_trainer_example_fine_tunes_on_a_users_folder(tiny_model, scene_folder, tmp_path):
    example = README.read_text().split(MARK)[1].split("```")[0]
    assert len(example.strip().splitlines()) <= 30
    model, output = tmp_path / "model", tmp_path / "out"
    tiny_model(id2label={i: f"class {i}" for i in range(5)}).save_pretrained(model)
    SetrImageProcessor(do_split_image=True, crop_size=64, stride=43).save_pretrained(model)
    code = example
    for old, new in (
        ('"mine"', f'"{scene_folder}"'),
        ('"setr-mla-ade20k"', f'"{model}"'),
        ('"outputs/mine"', f'"{output}"'),
        ("max_steps=2000", 'max_steps=2, use_cpu=True, report_to=[], save_strategy="no"'),
    ):
        assert old in code
        code = code.replace(old, new)
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    segmenter = pipeline("image-segmentation", model=str(output))
    assert segmenter.model.config.label2id == {name: index for index, name in enumerate(CLASSES)}
    labels = {segment["label"] for segment in segmenter(str(next((scene_folder / "images/val").iterdir())))}
    assert labels <= set(CLASSES)
