"""The page of a SETR on the Hub, from facts: of a public checkpoint, of a training run, or of a converted file."""

import json
import shlex
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import EvalResult, ModelCard, ModelCardData

from ..files import whole_file
from ..model.configuration_setr import SetrConfig
from ..model.image_processing_setr import SetrImageProcessor
from ..model.modeling_setr import SetrForSemanticSegmentation
from ..text import markdown_text, one_line
from .architecture import architecture_figure, architecture_text, decoder_name
from .benchmarks import Benchmark
from .pictures import save_figure
from .results import CARD, LISTED_AS, results_section


PAPER = (
    "[Rethinking Semantic Segmentation from a Sequence-to-Sequence Perspective with Transformers]"
    "(https://arxiv.org/abs/2012.15840) (CVPR 2021)"
)
ARCHITECTURE = "architecture.png"
TAGS = ["setr", "semantic-segmentation", "vision", "custom_code"]
PHOTOS = "https://huggingface.co/datasets/hf-internal-testing/fixtures_ade20k/resolve/main"
WIDGET = [
    {"src": f"{PHOTOS}/ADE_val_00000001.jpg", "example_title": "House"},
    {"src": f"{PHOTOS}/ADE_val_00000002.jpg", "example_title": "Castle"},
]
# Fields in which the networks of the same name differ between implementations.
DIFFERENCES = {
    "decoder_num_convs": "convolutions of the decoder",
    "decoder_scale_factor": "upsampling after each convolution of the decoder",
    "auxiliary_out_indices": "layers that feed auxiliary heads",
    "auxiliary_num_convs": "convolutions of an auxiliary head",
    "auxiliary_scale_factor": "upsampling after each convolution of an auxiliary head",
    "mla_align_corners": "corners aligned in the ×4 upsampling",
    "mla_classifier_kernel_size": "kernel of the classifier",
    "mla_auxiliary_bias": "bias of the auxiliary classifiers",
}
USE = """## Use it

The code of this model travels with it: Transformers (5.17 or newer) and torchvision are all it needs, and
`trust_remote_code=True` runs that code. Let `revision` be a tag or the hash of a commit, so that it is the code that
you have seen. With the package `setr-hf` installed, `import setr_hf` takes the place of `trust_remote_code`.

### In a pipeline

```python
from transformers import pipeline

pinned = dict(revision={revision}, trust_remote_code=True)
segmenter = pipeline("image-segmentation", model={name}, **pinned)
for segment in segmenter("photo.jpg"):
    print(segment["label"], segment["mask"])
```

With `setr-hf`:

```python
import setr_hf
from transformers import pipeline

segmenter = pipeline("image-segmentation", model={name}, revision={revision})
for segment in segmenter("photo.jpg"):
    print(segment["label"], segment["mask"])
```

### With the Auto classes

```python
from PIL import Image
from transformers import AutoImageProcessor, AutoModelForSemanticSegmentation

pinned = dict(revision={revision}, trust_remote_code=True)
processor = AutoImageProcessor.from_pretrained({name}, **pinned)
model = AutoModelForSemanticSegmentation.from_pretrained({name}, **pinned)
photo = Image.open("photo.jpg")
outputs = model(**processor(photo, return_tensors="pt"))
label_map = processor.post_process_semantic_segmentation(outputs, [(photo.height, photo.width)])[0]  # class ids
```

With `setr-hf`:

```python
from PIL import Image
from setr_hf import SetrForSemanticSegmentation, SetrImageProcessor, segment

processor = SetrImageProcessor.from_pretrained({name}, revision={revision})
model = SetrForSemanticSegmentation.from_pretrained({name}, revision={revision})
label_map = segment(model, processor, [Image.open("photo.jpg")])[0]  # class ids, (height, width)
```

### Fine-tune it

on photos `mine/images/train/*.jpg` and 8-bit PNGs of class ids `mine/annotations/train/*.png`, where 255 is ignored:

```python
from pathlib import Path

from PIL import Image
from transformers import AutoImageProcessor, AutoModelForSemanticSegmentation, Trainer, TrainingArguments

pinned = dict(revision={revision}, trust_remote_code=True)
processor = AutoImageProcessor.from_pretrained({name}, **pinned)
model = AutoModelForSemanticSegmentation.from_pretrained({name}, **pinned)
model.reset_classifiers({{0: "background", 1: "object"}})  # new ones for your classes; all other weights stay
options = {{"size": {size}, "do_split_image": False, "do_reduce_labels": False}}


def batch(paths):
    photos = [Image.open(path) for path in paths]
    label_maps = [Image.open(f"mine/annotations/train/{{path.stem}}.png") for path in paths]
    return processor(photos, label_maps, return_tensors="pt", **options)


arguments = TrainingArguments("outputs/mine", max_steps=2000, learning_rate=1e-4, remove_unused_columns=False)
photos = sorted(Path("mine/images/train").iterdir())
Trainer(model, arguments, data_collator=batch, train_dataset=photos, processing_class=processor).train()
```

With `setr-hf`, which adds augmentation, evaluation by sliding windows on `mine/images/val` and a card like this one,
and wants the class names in `mine/labels.json`, such as `{{"id2label": {{"0": "background", "1": "object"}}}}`:

```bash
setr-hf train --dataset mine --model {shell_name} --reinitialize-classifier \\
    --output-dir outputs/mine --max-steps 2000 --learning-rate 1e-4
```
"""
USE_OF_BANDS = """## Use it

Its photos have {num_bands} bands, in the order of the training data: arrays of `(height, width, {num_bands})`.
Integers are divided by the largest number of their type, floating-point numbers taken as they are. With `setr-hf`,
whose extra `large` reads GeoTIFF:

```python
from setr_hf import SetrForSemanticSegmentation, SetrImageProcessor, read_bands, segment

processor = SetrImageProcessor.from_pretrained({name}, revision={revision})
model = SetrForSemanticSegmentation.from_pretrained({name}, revision={revision})
label_map = segment(model, processor, [read_bands("field.tif", {num_bands})])[0]  # class ids, (height, width)
```

In a pipeline, which otherwise makes all photos RGB:

```python
from setr_hf import BandSegmentationPipeline
from transformers import pipeline

segmenter = pipeline("image-segmentation", model={name}, pipeline_class=BandSegmentationPipeline)
segments = segmenter("field.tif")
```

With the code that travels with this model, which `trust_remote_code=True` runs:

```python
import numpy as np
from transformers import AutoImageProcessor, AutoModelForSemanticSegmentation

pinned = dict(revision={revision}, trust_remote_code=True)
processor = AutoImageProcessor.from_pretrained({name}, **pinned)
model = AutoModelForSemanticSegmentation.from_pretrained({name}, **pinned)
photo = np.load("field.npy")
outputs = model(**processor(photo, input_data_format="channels_last", return_tensors="pt"))
label_map = processor.post_process_semantic_segmentation(outputs, [photo.shape[:2]])[0]  # class ids
```

On a folder, and further training on your own, `mine/images/train/*.tif` and `mine/annotations/train/*.png`:

```bash
setr-hf predict photos --model {shell_name} --output label_maps
setr-hf train --dataset mine --model {shell_name} --reinitialize-classifier \\
    --output-dir outputs/mine --max-steps 2000 --learning-rate 1e-4
```
"""
CITATION = """## Citation

```bibtex
@inproceedings{zheng2021rethinking,
  title = {Rethinking Semantic Segmentation from a Sequence-to-Sequence Perspective with Transformers},
  author = {Zheng, Sixiao and Lu, Jiachen and Zhao, Hengshuang and Zhu, Xiatian and Luo, Zekun and Wang, Yabiao
    and Fu, Yanwei and Feng, Jianfeng and Xiang, Tao and Torr, Philip H. S. and Zhang, Li},
  booktitle = {Proceedings of the IEEE/CVF Conference on Computer Vision and Pattern Recognition (CVPR)},
  pages = {6881--6890},
  year = {2021}
}
```
"""


@dataclass(frozen=True)
class ModelFacts:
    """What the card of a model says that its folder does not; all texts are Markdown.

    Args:
        repository (`str`): `name`, or `owner/name` as on the Hub.
        introduction (`str`): Who trained the model, and where its weights come from.
        license_text (`str`): What is known of the terms of the weights.
        revision (`str`): The tag or commit that users should pin, or the branch until there is one.
        license (`str`, *optional*): An identifier of the Hub, such as "mit".
        base_model (`str`, *optional*): On the Hub, the model whose weights this one started from.
        benchmark (`Benchmark`, *optional*): The public data set that it was trained on.
        datasets (`list[str]`): Ids on the Hub of the data that it was trained on.
        tags (`list[str]`): Of the Hub, besides those of every SETR.
        training (`list[tuple[str, object]]`): Names and values of the recipe.
        training_text (`str`): What follows these, such as the command that trains again.
        pictures (`list[tuple[str, str]]`): Of the training: a title, and the file beside the card.
        results (`list[EvalResult]`): Published and measured ones.
        results_text (`str`): What is to be known of them.
        differences (`str`): How the network differs from the other implementation's of the same name.
        language (`str`, *optional*): Of the class names.
    """

    repository: str
    introduction: str
    license_text: str
    revision: str = "main"
    license: str | None = None
    base_model: str | None = None
    benchmark: Benchmark | None = None
    datasets: list[str] = field(default_factory=list)
    tags: list[str] = field(default_factory=list)
    training: list[tuple[str, object]] = field(default_factory=list)
    training_text: str = ""
    pictures: list[tuple[str, str]] = field(default_factory=list)
    results: list[EvalResult] = field(default_factory=list)
    results_text: str = ""
    differences: str = ""
    language: str | None = None


def table(header: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    lines = [list(header), ["---"] * len(header), *([markdown_text(cell) for cell in row] for row in rows)]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def python_text(text: str) -> str:
    """A text as a literal of Python, in one line."""
    return json.dumps(one_line(text), ensure_ascii=False)


def difference_table(config: SetrConfig, others: SetrConfig, titles: tuple[str, str]) -> str:
    """What differs between two configurations of the same name, with a title for each."""
    rows = [
        (name, shown(getattr(config, field_name)), shown(getattr(others, field_name)))
        for field_name, name in DIFFERENCES.items()
        if getattr(config, field_name) != getattr(others, field_name)
    ]
    return table(["", *titles], rows)


def shown(value: Any) -> str:
    """A value of a configuration in a table."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    return ", ".join(map(str, value)) or "none" if isinstance(value, list | tuple) else str(value)


def count_parameters(config: SetrConfig) -> int:
    with torch.device("meta"):
        return sum(parameter.numel() for parameter in SetrForSemanticSegmentation(config).parameters())


def size_text(processor: SetrImageProcessor) -> str:
    """How photos are resized before they are cut or given to the model."""
    size = {name: value for name, value in dict(processor.size).items() if value is not None}
    if not processor.do_resize:
        return "are not resized"
    if "shortest_edge" in size:
        most = f", with a longer side of at most {size['longest_edge']}" if "longest_edge" in size else ""
        return f"are resized to a shorter side of {size['shortest_edge']} pixels{most}"
    return f"are resized to {size.get('height')} × {size.get('width')} pixels"


def protocol_text(processor: SetrImageProcessor) -> str:
    """What the image processor does to a photo, which is the single-scale test protocol."""
    photos = "Photos" if processor.num_bands is None else f"Photos of {processor.num_bands} bands"
    if not processor.do_split_image:
        return f"{photos} {size_text(processor)}."
    window: Any = processor.crop_size
    return (
        f"{photos} {size_text(processor)}, and cut into windows of {window.height} × {window.width} that start every "
        f"{processor.stride} pixels; logits are averaged where windows overlap."
    )


def architecture_section(config: SetrConfig) -> str:
    count, text = count_parameters(config), markdown_text(architecture_text(config))
    return f"""## Architecture

![The architecture of SETR-{decoder_name(config)}]({ARCHITECTURE})

{text}. Each convolution of the heads but the classifiers is followed by BatchNorm and ReLU. Auxiliary heads run in
training only. {count / 1e6:,.1f} million parameters, {4 * count / 2**20:,.0f} MiB in fp32.
"""


def use_section(facts: ModelFacts, config: SetrConfig, processor: SetrImageProcessor) -> str:
    window: Any = processor.crop_size
    side = config.image_size
    height, width = (window.height, window.width) if window else (side, side) if isinstance(side, int) else side
    size = json.dumps({"height": height, "width": width})
    return (USE if processor.num_bands is None else USE_OF_BANDS).format(
        num_bands=processor.num_bands,
        name=python_text(facts.repository),
        shell_name=shlex.quote(one_line(facts.repository)),
        revision=python_text(facts.revision),
        size=size,
    )


def training_section(facts: ModelFacts) -> str:
    parts = ["## Training"]
    if facts.benchmark:
        counts = ", ".join(f"{count:,} {split}" for split, count in facts.benchmark.num_images.items())
        parts.append(f"Data: [{facts.benchmark.title}]({facts.benchmark.homepage}), photos: {counts}.")
    parts += [table(["", "value"], facts.training)] if facts.training else []
    parts += [facts.training_text] if facts.training_text else []
    parts += [f"![{markdown_text(title)}]({name})" for title, name in facts.pictures]
    return "\n\n".join(parts) + "\n" if len(parts) > 1 else ""


def limits_section(facts: ModelFacts, config: SetrConfig) -> str:
    names = ", ".join(markdown_text(config.id2label[index]) for index in sorted(config.id2label))
    domain = f"- **Domain.** {facts.benchmark.domain}\n" if facts.benchmark else ""
    patch = f"{config.patch_size} × {config.patch_size}"
    return f"""## Limits

{domain}- **Classes.** Every pixel gets one of {len(config.id2label)} classes, whatever it shows. Scores are not
  calibrated probabilities.
- **Sizes.** Photos of any size can be used. What is much smaller than a patch of {patch} pixels, at the size that
  photos are resized to, is mostly lost, and thin things come out coarse.
- **Bias.** How well it does for people of different looks, and for places unlike those in its data, has not been
  measured. Measure it on your own photos before you rely on it.

<details><summary>The {len(config.id2label)} classes</summary>

{names}

</details>
"""


def license_section(facts: ModelFacts) -> str:
    terms = f"\n\nData: {facts.benchmark.terms}" if facts.benchmark else ""
    return f"""## License

Weights: {facts.license_text}

Code in this repository: Apache-2.0.{terms}
"""


def metadata(facts: ModelFacts) -> ModelCardData:
    hub_ids = [facts.benchmark.hub_id] if facts.benchmark and facts.benchmark.hub_id else []
    return ModelCardData(
        language=facts.language,
        license=facts.license,
        **LISTED_AS,
        tags=[*TAGS, *facts.tags],
        datasets=[*hub_ids, *facts.datasets] or None,
        metrics=["mean_iou"],
        base_model=facts.base_model,
        base_model_relation="finetune" if facts.base_model else None,
        widget=WIDGET if facts.benchmark else None,
        model_name=facts.repository.split("/")[-1],
        eval_results=facts.results or None,
    )


def model_card(facts: ModelFacts, config: SetrConfig, processor: SetrImageProcessor) -> ModelCard:
    """The card of a model with this configuration and image processor. It shows the pictures of `facts` and that of
    [`write_model_card`], which lie beside it.
    """
    data = metadata(facts)
    if data.eval_results is None:
        # Or `huggingface_hub` writes it as a field of its own.
        data.model_name = None
    results = [protocol_text(processor), facts.results_text, results_section(facts.results, facts.repository)]
    sections = [
        f"# {markdown_text(facts.repository.split('/')[-1])}\n\n{facts.introduction}\n",
        architecture_section(config),
        use_section(facts, config, processor),
        training_section(facts),
        "\n\n".join(["## Results", *filter(None, results)]) + "\n",
        f"## How it differs from its namesake\n\n{facts.differences}\n" if facts.differences else "",
        limits_section(facts, config),
        license_section(facts),
        CITATION,
    ]
    text = "\n".join(section for section in sections if section)
    return ModelCard(f"---\n{data.to_yaml()}\n---\n\n{text}")


def write_model_card(folder: Path, facts: ModelFacts, config: SetrConfig, processor: SetrImageProcessor) -> None:
    """Writes `README.md` and the picture of the architecture into the folder of a model."""
    save_figure(architecture_figure(config), folder / ARCHITECTURE, architecture_text(config))
    card = model_card(facts, config, processor)
    with whole_file(folder / CARD) as unfinished:
        card.save(unfinished)
