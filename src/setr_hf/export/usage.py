"""What lies beside an exported model for whoever runs it."""

import json

from transformers import PreTrainedConfig

from ..text import one_line
from .formats import OPENVINO_OPTIONS, OPSET


LOADING = {
    "model.onnx": """\
import onnxruntime

session = onnxruntime.InferenceSession("model.onnx")
logits = session.run(["logits"], {"pixel_values": pixel_values})[0]""",
    "model.xml": f"""\
import openvino

# The weights are in model.bin. Without these options OpenVINO is faster on some processors, and computes in bfloat16.
options = {json.dumps(OPENVINO_OPTIONS)}
model = openvino.Core().compile_model("model.xml", "CPU", options)
logits = model(pixel_values)["logits"]""",
    "model.pt2": """\
import torch

# torch.export.load unpickles: load only files that you trust.
model = torch.export.load("model.pt2").module(check_guards=False)
with torch.inference_mode():
    logits = model(pixel_values=torch.from_numpy(pixel_values)).numpy()""",
}
KINDS = {"model.onnx": f"ONNX, operator set {OPSET}", "model.xml": "OpenVINO", "model.pt2": "torch.export"}
PRECISIONS = {
    "float32": "float32",
    "float16": "float16; inputs and outputs are float32",
    "int8": "weights of 8 bits, a scale for each output channel; computations, inputs and outputs are float32",
}


def usage(file_name: str, config: PreTrainedConfig, dtype: str) -> str:
    """The text of README.md: inputs, outputs and how to run the file."""
    return f"""\
# SETR-{config.decoder_type}, {KINDS[file_name]}

`setr-hf export` wrote `{file_name}` ({PRECISIONS[dtype]}).

| | name | type | shape |
| --- | --- | --- | --- |
| input | `pixel_values` | float32 | (batch_size, {config.num_channels}, height, width) |
| output | `logits` | float32 | (batch_size, {config.num_labels}, rows, columns) |

`pixel_values` are normalized as `preprocessor_config.json` says, channels first; of any size beyond one patch of
{config.patch_size} pixels. `logits` come at the decoder's
resolution; `config.json` names the classes{class_names(config)}.

```python
import numpy as np

pixel_values = np.zeros((1, {config.num_channels}, 512, 512), dtype=np.float32)
{LOADING[file_name]}
```

From a photo to its label map by the test protocol of the model, sliding windows included, with setr-hf installed:

```python
from PIL import Image
from setr_hf import segment
from setr_hf.export.running import load_exported

model, processor = load_exported(".")
label_map = segment(model, processor, [Image.open("photo.jpg")])[0]  # class ids, (height, width)
```
"""


def class_names(config: PreTrainedConfig) -> str:
    """The first few names, in brackets."""
    names = [one_line(name) for name in config.id2label.values()]
    return f" ({', '.join(names[:5])}{', …' if len(names) > 5 else ''})"
