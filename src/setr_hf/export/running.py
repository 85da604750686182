"""An exported model in the place of the original one."""

from pathlib import Path
from typing import Any

import torch
from transformers import BaseImageProcessor
from transformers.utils import CONFIG_NAME, ModelOutput

from ..errors import SetrError
from ..inference.loading import load_processor, loading, read_object
from ..model.configuration_setr import SetrConfig
from ..model.modeling_setr import SetrForSemanticSegmentation, pad_to_grid
from .formats import FORMATS, Run, check_packages


class ExportedModel(SetrForSemanticSegmentation):
    """A model whose logits come from a file of another runtime. All else, such as windows that a photo does not fill,
    is as in [`SetrForSemanticSegmentation`], so that [`segment`] takes one for the other.
    """

    def __init__(self, config: SetrConfig, run: Run):
        with torch.device("meta"):
            super().__init__(config)
        self.run = run
        self.eval()

    @property
    def device(self) -> torch.device:
        return torch.device("cpu")

    def _encode(
        self, pixel_values: torch.Tensor, with_auxiliary: bool, **kwargs: Any
    ) -> tuple[dict[int, torch.Tensor], ModelOutput]:
        # Of whole patches, the graph returns the logits as the decoder leaves them.
        pixels = pad_to_grid(pixel_values, self.config.patch_size).contiguous()
        return {0: torch.from_numpy(self.run(pixels.numpy()))}, ModelOutput(hidden_states=None, attentions=None)

    def _decode(
        self, feature_maps: dict[int, torch.Tensor], with_auxiliary: bool
    ) -> tuple[torch.Tensor, tuple[torch.Tensor, ...]]:
        return feature_maps[0], ()


def load_exported(folder: str | Path) -> tuple[ExportedModel, BaseImageProcessor]:
    """The model that `setr-hf export` wrote to a folder, and its image processor, for [`segment`]. Raises
    [`SetrError`] if the folder holds none, or a package is missing that runs it.

    Example:

    ```python
    >>> from PIL import Image
    >>> from setr_hf import segment
    >>> from setr_hf.export.running import load_exported

    >>> model, processor = load_exported("exported")  # doctest: +SKIP
    >>> label_map = segment(model, processor, [Image.open("photo.jpg")])[0]  # doctest: +SKIP
    ```
    """
    folder = Path(folder)
    found = [name for name, form in FORMATS.items() if (folder / form.file_name).is_file()]
    if not found:
        names = ", ".join(form.file_name for form in FORMATS.values())
        raise SetrError(f"{folder} holds no exported model: it has none of {names}")
    check_packages(found[0])
    read_object(folder / CONFIG_NAME)
    with loading(f"the exported model {folder}"):
        config = SetrConfig.from_pretrained(folder)
        run = FORMATS[found[0]].load(folder / FORMATS[found[0]].file_name)
    return ExportedModel(config, run), load_processor(folder)
