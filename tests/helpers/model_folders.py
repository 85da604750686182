"""A folder of a tiny SETR for jobs that read one."""

import torch

from setr_hf import SetrConfig, SetrForSemanticSegmentation, SetrImageProcessor


NAMES = ["sky", "tree", "road", "car"]


def save_model(folder, names, seed=0, **fields):
    """`fields` override those of the configuration."""
    torch.manual_seed(seed)
    default = {
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "intermediate_size": 64,
        "image_size": 32,
        "decoder_type": "naive",
        "decoder_hidden_size": 16,
        "auxiliary_out_indices": [],
        "id2label": dict(enumerate(names)),
        "label2id": {name: i for i, name in enumerate(names)},
        "semantic_loss_ignore_index": 255 if len(names) < 256 else -100,
    }
    config = SetrConfig(**{**default, **fields})
    model = SetrForSemanticSegmentation(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.normal_(std=parameter[0].numel() ** -0.5)
    model.save_pretrained(folder)
    SetrImageProcessor(
        size={"shortest_edge": 32, "longest_edge": 128},
        crop_size={"height": 32, "width": 32},
        stride=21,
        do_split_image=True,
        antialias=False,
    ).save_pretrained(folder)
