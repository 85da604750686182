"""The code that travels with saved models: what it demands of a computer without this package."""

import sys
from pathlib import Path

import pytest
from transformers.dynamic_module_utils import get_imports

from setr_hf import model


FILES = sorted(Path(model.__file__).parent.glob("*_setr.py"))
# What whoever segments images with Transformers has installed.
USUAL = {"PIL", "huggingface_hub", "numpy", "safetensors", "torch", "torchvision", "transformers"}


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_it_demands_no_package_that_few_have(path):
    # Transformers refuses remote code whose imports, outside of `try`, are not all there.
    assert {name for name in get_imports(path) if name not in sys.stdlib_module_names} <= USUAL
