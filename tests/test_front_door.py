"""`import setr_hf`: every public name is there, and what is beyond the model layer loads on first use."""

import subprocess
import sys

import pytest

import setr_hf


@pytest.mark.parametrize("name", setr_hf.__all__)
def test_every_public_name_is_there(name):
    assert getattr(setr_hf, name) is not None
    assert name in dir(setr_hf)


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="'setr_hf' has no attribute 'SetrTrainers'"):
        setr_hf.SetrTrainers  # noqa: B018


def test_the_import_registers_setr_and_loads_nothing_beyond_the_model_layer():
    script = """
import sys
import setr_hf
from transformers import AutoConfig
assert type(AutoConfig.for_model("setr")) is setr_hf.SetrConfig
ours = sorted(name for name in sys.modules if name.startswith("setr_hf.") and not name.startswith("setr_hf.model"))
assert not ours, ours
loaded = {"cv2", "datasets", "evaluate", "matplotlib", "pyarrow"} & set(sys.modules)
assert not loaded, loaded
"""
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
