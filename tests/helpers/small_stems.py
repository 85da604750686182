"""Stems as the presets have them, with few channels."""

# Of "hybrid" and "vit-hybrid"; timm's has groups of 32 channels.
SMALL_STEMS = {
    "resnet": {
        "model_type": "resnet",
        "embedding_size": 8,
        "hidden_sizes": [8, 16, 32, 64],
        "depths": [1, 1, 1, 2],
        "output_stride": 16,
        "out_features": ["stage4"],
    },
    "bit": {
        "model_type": "bit",
        "layer_type": "bottleneck",
        "embedding_size": 32,
        "hidden_sizes": [128, 128, 256],
        "depths": [1, 1, 2],
        "global_padding": "same",
        "embedding_dynamic_padding": True,
        "out_features": ["stage3"],
    },
}
