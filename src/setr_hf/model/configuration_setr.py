"""SETR model configuration."""

import copy
import math
from dataclasses import fields
from typing import Any

from huggingface_hub.dataclasses import strict
from transformers import AutoConfig, PreTrainedConfig
from transformers.activations import ACT2FN
from transformers.backbone_utils import BackboneConfigMixin

from .loss_settings_setr import LossSettings, losses_of
from .plain_backbone_setr import encoder_sizes
from .presets_setr import find_preset


# Where each Auto class finds the code that travels with a saved model.
AUTO_MAP = {
    "AutoConfig": "configuration_setr.SetrConfig",
    "AutoModel": "modeling_setr.SetrModel",
    "AutoBackbone": "modeling_setr.SetrBackbone",
    "AutoModelForSemanticSegmentation": "modeling_setr.SetrForSemanticSegmentation",
}

DECODER_TYPES = ("naive", "pup", "mla")
# The classes of a binary model whose foreground has no name.
BINARY_NAMES = ("background", "foreground")

# Fields that count something or measure a side, and limits beyond which they are mistakes that exhaust the memory.
SIZES = ["hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size", "patch_size", "num_channels"]
SIZES += ["decoder_hidden_size", "decoder_kernel_size", "decoder_num_convs", "decoder_scale_factor"]
SIZES += ["auxiliary_num_convs", "auxiliary_scale_factor", "mla_hidden_size", "mla_classifier_kernel_size"]
MAX_SIZE = 2**20
MAX_LAYERS = 1000
MAX_LABELS = 2**16
MAX_UPSAMPLING = 1024
FLOAT32_MAX = 3e38

# Layers (counted from 1) that feed the auxiliary heads of the published models, by decoder and encoder depth.
PUBLISHED_AUXILIARY_INDICES = {
    ("naive", 24): [10, 15, 20],
    ("naive", 12): [3, 6, 9],
    ("pup", 24): [10, 15, 20, 24],
    ("pup", 12): [5, 8, 10, 12],
}


def quarter_depths(num_layers: int) -> list[int]:
    """The layers after each quarter of an encoder, such as `[6, 12, 18, 24]` for 24 layers."""
    return sorted({max(1, num_layers * quarter // 4) for quarter in (1, 2, 3, 4)})


def check_num_labels(num_labels: Any) -> None:
    if not isinstance(num_labels, int) or not 1 <= num_labels <= MAX_LABELS:
        raise ValueError(f"num_labels must be a number from 1 to {MAX_LABELS}, got {num_labels!r}")


def is_id(key: Any) -> bool:
    """Whether a key of `id2label` is a number; in JSON it is text."""
    return isinstance(key, int) or (isinstance(key, str) and key.isdecimal())


def numbered_names(num_labels: int) -> dict[int, str]:
    """The names of classes whose names are not known."""
    names = BINARY_NAMES if num_labels == 1 else [f"LABEL_{index}" for index in range(num_labels)]
    return dict(enumerate(names))


def config_of(name: str, value: dict[str, Any] | PreTrainedConfig) -> PreTrainedConfig:
    """A field that configures another network, from a file or from Python."""
    if not isinstance(value, dict):
        return value
    if not isinstance(value.get("model_type"), str):
        raise ValueError(f"{name} has no model_type, got {value}")
    return AutoConfig.for_model(**value)


@strict
class SetrConfig(BackboneConfigMixin, PreTrainedConfig):
    r"""Configuration of [`SetrModel`], [`SetrBackbone`] and [`SetrForSemanticSegmentation`]: the segmentation
    transformer of "Rethinking Semantic Segmentation from a Sequence-to-Sequence Perspective with Transformers" (CVPR
    2021). The defaults are SETR-MLA with the ViT-Large encoder ("T-Large", Table 1) on 512×512 windows.

    Layers are counted from 1, as in the paper: layer `i` is Z^i, the output of the i-th transformer layer, and 0 is
    the embedding, as in the backbones of Transformers.

    Args:
        hidden_size (`int`, defaults to 1024): Width of the encoder; a multiple of `num_attention_heads`.
        num_hidden_layers (`int`, defaults to 24): Depth of the encoder.
        num_attention_heads (`int`, defaults to 16): Attention heads of each layer.
        intermediate_size (`int`, defaults to 4096): Width of the hidden layer of each MLP.
        hidden_act (`str`, defaults to `"gelu"`): Activation in each MLP.
        hidden_dropout_prob (`float`, defaults to 0.0): Dropout after embedding, attention and MLP layers.
        attention_probs_dropout_prob (`float`, defaults to 0.0): Dropout of the attention weights.
        drop_path_rate (`float`, defaults to 0.0): Stochastic depth of the last layer; it grows linearly from 0.
        initializer_range (`float`, defaults to 0.02): Standard deviation of linear layers and embeddings at the start.
        layer_norm_eps (`float`, defaults to 1e-6): Epsilon of all LayerNorms.
        image_size (`int` or pair `(height, width)`, defaults to 512): Size in pixels the position embeddings are made
            for. Images of any other size work: the position embeddings are interpolated.
        patch_size (`int`, defaults to 16): Side of a square patch in pixels.
        num_channels (`int`, defaults to 3): Channels of `pixel_values`.
        qkv_bias (`bool`, defaults to `True`): Bias of the query, key and value projections.
        use_class_token (`bool`, *optional*): Whether a class token goes through the encoder. The decoders never see
            it. Defaults to the original code's choice: `False` for "mla", `True` otherwise.
        decoder_type (`str`, defaults to `"mla"`): `"naive"`, `"pup"` (progressive upsampling) or `"mla"` (multi-level
            aggregation), paper section 3.3.
        out_indices (`list[int]`, *optional*): Layers that feed the decoder: ascending, without repetition. Defaults
            to the last layer for "naive" and "pup", and to one layer at each quarter of the depth for "mla".
        out_features (`list[str]`, *optional*): The same by name, `"stem"`, `"stage1"`, …
        auxiliary_out_indices (`list[int]`, *optional*): Layers that feed the auxiliary heads; empty for none.
            "mla" has one auxiliary classifier on each aggregated map or none, so there it is `out_indices` or empty.
        auxiliary_loss_weight (`float`, defaults to 0.4): Weight of the loss of each auxiliary head.
        decoder_hidden_size (`int`, defaults to 256): Channels of the decoder's convolutions.
        decoder_kernel_size (`int`, *optional*): Kernel of the "naive" and "pup" convolutions; 1 for "naive", 3 for
            "pup" by default.
        decoder_num_convs (`int`, *optional*): Number of these convolutions; 1 for "naive", 4 for "pup" by default.
        decoder_scale_factor (`int`, *optional*): Upsampling after each of them; 1 for "naive", 2 for "pup" by default.
        auxiliary_num_convs (`int`, defaults to 1): Number of convolutions of `decoder_kernel_size` in each auxiliary
            head of "naive" and "pup".
        auxiliary_scale_factor (`int`, *optional*): Upsampling after each of them; 1 for "naive", 4 for "pup" by
            default.
        mla_hidden_size (`int`, defaults to 128): Channels of each stream of "mla" before the classifier.
        mla_align_corners (`bool`, defaults to `True`): Whether the ×4 upsampling of "mla" aligns corners.
        mla_classifier_kernel_size (`int`, defaults to 3): Kernel of the classifier of "mla".
        mla_auxiliary_bias (`bool`, defaults to `False`): Bias of the auxiliary classifiers of "mla".
        semantic_loss_ignore_index (`int`, defaults to 255): Label that the loss leaves out; not the id of a class.
        semantic_loss_average (`str`, defaults to `"valid"`): What the sum of the pixels' losses is divided by. With
            `"valid"`, by the number of pixels that are not ignored, as in the other models of Transformers. With
            `"all"`, by the number of all pixels, ignored and padded ones too, so that images with many of them weigh
            less; the paper's models were trained so, by the original code and by mmsegmentation.
        semantic_loss (`dict[str, float]`, *optional*): The weights of the losses whose sum a model is trained with,
            such as `{"cross_entropy": 1.0, "dice": 0.5}`: some of `"cross_entropy"`, `"binary_cross_entropy"`,
            `"focal"`, `"ohem"`, `"dice"` and `"tversky"`, which [`LossSettings`] defines. Defaults to the
            cross-entropy. The auxiliary heads have the same losses.
        semantic_loss_class_weights (`list[float]`, *optional*): Weight of each class in the losses of pixels, that is,
            in all but Dice and Tversky; of background and foreground if the model is binary.
        semantic_loss_label_smoothing (`float`, defaults to 0.0): Share of the target, from 0 to 1, that
            cross-entropies (OHEM's too) spread over all classes.
        semantic_loss_focal_gamma (`float`, defaults to 2.0): Exponent γ of the focal loss.
        semantic_loss_focal_alpha (`float`, *optional*): Weight α of the foreground in the focal loss of a binary
            model, whose background has 1 − α.
        semantic_loss_tversky_alpha (`float`, defaults to 0.5): Weight of false positives in the Tversky loss.
        semantic_loss_tversky_beta (`float`, defaults to 0.5): Weight of false negatives in the Tversky loss.
        semantic_loss_ohem_threshold (`float`, *optional*): Probability of the true class below which OHEM takes a
            pixel for a hard one. Without one, it takes the `semantic_loss_ohem_min_kept` with the largest losses.
        semantic_loss_ohem_min_kept (`int`, defaults to 100000): Pixels of each image that OHEM keeps at least.
        is_binary (`bool`, defaults to `False`): Whether the model has a single logit a pixel, that of class 1, the
            foreground, against class 0. `num_labels=1` sets it, and is what `num_labels` then is, while `id2label`
            names both classes of its label maps: `SetrConfig(num_labels=1, id2label={0: "crack"})` has
            `{0: "background", 1: "crack"}`.
        dataset (`str`, *optional*): The public data set whose classes these are, such as `"ade20k"`; the published
            scales of multi-scale evaluation depend on it.
        palette (`list[list[int]]`, *optional*): RGB colour of each class, 0 to 255, for pictures of label maps.
        backbone_config (`PreTrainedConfig` or `dict`, *optional*): A plain ViT of Transformers (DINOv2, DINOv3, CLIP,
            …) or timm in place of the own encoder. Width, depth, heads, patch size and channels are then taken from
            it; its weights are random, unlike those of [`SetrForSemanticSegmentation.from_backbone`].
        stem_config (`PreTrainedConfig` or `dict`, *optional*): A convolutional backbone of Transformers (`"resnet"`,
            `"bit"`, …) that an image goes through before it is cut into patches, as in the paper's Hybrid (section
            4.1). The encoder reads its last feature map, on which a patch is `patch_size` divided by the map's stride
            wide: a single pixel of maps at 1/16. With `output_stride`, a ResNet has dilation in place of strides
            beyond it, as in FCNs. Its `num_channels` is that of this configuration.

    mmsegmentation trains other networks under the same names. Theirs are
    `SetrConfig(decoder_type="naive", decoder_scale_factor=4, auxiliary_scale_factor=4)`,
    `SetrConfig(decoder_type="pup", auxiliary_out_indices=[10, 15, 20])` and
    `SetrConfig(decoder_type="mla", mla_align_corners=False, mla_classifier_kernel_size=1, mla_auxiliary_bias=True)`,
    the first two with `auxiliary_num_convs=2` in all its recipes but naive on Cityscapes.

    Raises:
        `ValueError`: a field is out of range or fields contradict each other.
        `StrictDataclassFieldValidationError`: a field has another type than the one stated.

    Example:

    ```python
    >>> from setr_hf import SetrConfig

    >>> config = SetrConfig(decoder_type="pup", num_hidden_layers=12, num_labels=19)
    >>> config.out_indices, config.auxiliary_out_indices
    ([12], [5, 8, 10, 12])
    ```
    """

    model_type = "setr"
    sub_configs = {"backbone_config": AutoConfig, "stem_config": AutoConfig}
    keys_to_ignore_at_inference = ["auxiliary_logits", "patch_offsets"]

    hidden_size: int = 1024
    num_hidden_layers: int = 24
    num_attention_heads: int = 16
    intermediate_size: int = 4096
    hidden_act: str = "gelu"
    hidden_dropout_prob: float | int = 0.0
    attention_probs_dropout_prob: float | int = 0.0
    drop_path_rate: float | int = 0.0
    initializer_range: float | int = 0.02
    layer_norm_eps: float | int = 1e-6
    image_size: int | list[int] | tuple[int, int] = 512
    patch_size: int = 16
    num_channels: int = 3
    qkv_bias: bool = True
    use_class_token: bool | None = None
    decoder_type: str = "mla"
    auxiliary_out_indices: list[int] | tuple[int, ...] | None = None
    auxiliary_loss_weight: float | int = 0.4
    decoder_hidden_size: int = 256
    decoder_kernel_size: int | None = None
    decoder_num_convs: int | None = None
    decoder_scale_factor: int | None = None
    auxiliary_num_convs: int = 1
    auxiliary_scale_factor: int | None = None
    mla_hidden_size: int = 128
    mla_align_corners: bool = True
    mla_classifier_kernel_size: int = 3
    mla_auxiliary_bias: bool = False
    semantic_loss_ignore_index: int = 255
    semantic_loss_average: str = "valid"
    semantic_loss: dict[str, float | int] | None = None
    semantic_loss_class_weights: list[float | int] | tuple[float | int, ...] | None = None
    semantic_loss_label_smoothing: float | int = 0.0
    semantic_loss_focal_gamma: float | int = 2.0
    semantic_loss_focal_alpha: float | int | None = None
    semantic_loss_tversky_alpha: float | int = 0.5
    semantic_loss_tversky_beta: float | int = 0.5
    semantic_loss_ohem_threshold: float | int | None = None
    semantic_loss_ohem_min_kept: int = 100_000
    is_binary: bool = False
    dataset: str | None = None
    palette: list[list[int]] | None = None
    backbone_config: dict | PreTrainedConfig | None = None
    stem_config: dict | PreTrainedConfig | None = None
    _out_features: list[str] | None = None
    _out_indices: list[int] | None = None

    def __post_init__(self, **kwargs: Any) -> None:
        if self.backbone_config is not None:
            self._adopt_backbone_config()
        if self.stem_config is not None:
            self._adopt_stem_config()
        if self.use_class_token is None:
            self.use_class_token = self.decoder_type != "mla"
        is_pup = self.decoder_type == "pup"
        defaults = {"decoder_kernel_size": 3 if is_pup else 1, "decoder_num_convs": 4 if is_pup else 1}
        defaults |= {"decoder_scale_factor": 2 if is_pup else 1, "auxiliary_scale_factor": 4 if is_pup else 1}
        for name, value in defaults.items():
            if getattr(self, name) is None:
                setattr(self, name, value)
        # These first: what follows counts with them.
        self._check_sizes()
        if not isinstance(self.id2label, (dict, type(None))):
            raise ValueError(f"id2label must be a dictionary of ids and names, got {self.id2label!r}")
        self.settle_classes(kwargs.pop("num_labels", None))
        self._set_layer_indices(kwargs.pop("out_features", None), kwargs.pop("out_indices", None))
        kwargs.pop("stage_names", None)  # Files hold them, but the depth decides.
        kwargs.setdefault("auto_map", dict(AUTO_MAP))
        super().__post_init__(**kwargs)
        if self.id2label and not getattr(self, "label2id", None):
            self.label2id = {name: index for index, name in self.id2label.items()}
        # Called here although the strict dataclass calls it too: that wraps the ValueError in a type of its own.
        self.validate_architecture()

    @classmethod
    def from_preset(cls, name: str, **fields: Any) -> "SetrConfig":
        """The configuration of a [`Preset`] by its name, such as `"t-base"` or `"tiny"`. The `fields` come on top,
        such as `decoder_type`, and override those of the preset. Raises `ValueError`, with close names, if there is
        none of that name.

        Example:

        ```python
        >>> from setr_hf import SetrConfig

        >>> config = SetrConfig.from_preset("t-base", decoder_type="pup", num_labels=19)
        >>> config.hidden_size, config.num_hidden_layers, config.out_indices
        (768, 12, [12])
        >>> SetrConfig.from_preset("hybrid").stem_config.model_type
        'resnet'
        ```
        """
        return cls(**find_preset(name).fields | fields)

    @property
    def num_labels(self) -> int | None:
        """Logits of a pixel: one for each class of `id2label`, or 1 if the model is binary."""
        if self.id2label is None:
            return None
        return 1 if self.is_binary else len(self.id2label)

    @num_labels.setter
    def num_labels(self, num_labels: int) -> None:
        if self.num_labels == num_labels:
            return
        is_change = self.id2label is not None
        self.is_binary = num_labels == 1
        # Transformers does not save names that are the default of two classes.
        if not is_change or len(self.id2label) != max(num_labels, 2) or self.id2label == numbered_names(2):
            self.id2label: Any = numbered_names(num_labels)
        self.label2id = {name: index for index, name in self.id2label.items()}
        if is_change:
            self.forget_other_classes()

    def settle_classes(self, num_labels: int | None = None) -> None:
        """Makes names and number of the classes agree, of which a binary model may be told the foreground's alone.
        Raises `ValueError` if they contradict each other.
        """
        if num_labels is not None:
            check_num_labels(num_labels)
        if self.id2label is None:
            self.num_labels = (1 if self.is_binary else 2) if num_labels is None else num_labels
            return
        self.id2label = {int(key) if is_id(key) else key: name for key, name in self.id2label.items()}
        if list(self.id2label) == [0] and num_labels in (None, 1):
            name = self.id2label[0]
            self.is_binary, self.id2label = True, {0: BINARY_NAMES[0], 1: name}
            self.label2id = {BINARY_NAMES[0]: 0, name: 1}
        self._check_names()
        if num_labels is not None:
            self.num_labels = num_labels

    def forget_other_classes(self) -> None:
        """Drops what belongs to other classes, after a change; the loss takes the form for their number."""
        if self.palette is not None and len(self.palette) != len(self.id2label):
            self.palette = None
        weights = self.semantic_loss_class_weights
        if isinstance(weights, (list, tuple)) and len(weights) != len(self.id2label):
            self.semantic_loss_class_weights = None
        if not self.is_binary:
            self.semantic_loss_focal_alpha = None
        if isinstance(self.semantic_loss, dict):
            self.semantic_loss = losses_of(self.semantic_loss, self.num_labels)

    def _adopt_stem_config(self) -> None:
        if self.backbone_config is not None:
            raise ValueError("stem_config belongs to SETR's own encoder: leave it out with backbone_config")
        # One that was passed may serve others, and is changed below.
        self.stem_config: Any = copy.deepcopy(config_of("stem_config", self.stem_config))
        self.stem_config.num_channels = self.num_channels
        # Transformers hands the encoder's attention on to it, and then refuses what has none.
        self.stem_config._attn_implementation = "eager"

    def _adopt_backbone_config(self) -> None:
        self.backbone_config: Any = config_of("backbone_config", self.backbone_config)
        for name, value in encoder_sizes(self.backbone_config).items():
            setattr(self, name, value)

    def _set_layer_indices(self, out_features: list[str] | None, out_indices: list[int] | None) -> None:
        self.stage_names = ["stem"] + [f"stage{layer}" for layer in range(1, self.num_hidden_layers + 1)]
        if out_features is None and out_indices is None:
            is_mla = self.decoder_type == "mla"
            out_indices = quarter_depths(self.num_hidden_layers) if is_mla else [self.num_hidden_layers]
        for name, value, kind in (("out_features", out_features, str), ("out_indices", out_indices, int)):
            is_list = isinstance(value, (list, tuple)) and all(isinstance(item, kind) for item in value)
            if value is not None and not is_list:
                raise ValueError(f"{name} must be a list of {kind.__name__}, got {value!r}")
        if out_indices is not None and any(abs(index) > self.num_hidden_layers for index in out_indices):
            raise ValueError(f"out_indices {list(out_indices)} lie outside the {self.num_hidden_layers} layers")
        self.set_output_features_output_indices(out_features=out_features, out_indices=out_indices)
        if self.auxiliary_out_indices is None:
            self.auxiliary_out_indices = self._default_auxiliary_indices()
        self.auxiliary_out_indices = list(self.auxiliary_out_indices)

    def _default_auxiliary_indices(self) -> list[int]:
        if self.decoder_type == "mla":
            return self.decoder_indices
        default = quarter_depths(self.num_hidden_layers)[:-1]
        return PUBLISHED_AUXILIARY_INDICES.get((self.decoder_type, self.num_hidden_layers), default)

    def _check_sizes(self) -> None:
        for name in SIZES:
            if not 1 <= getattr(self, name) <= MAX_SIZE:
                raise ValueError(f"{name} must be a number from 1 to {MAX_SIZE}, got {getattr(self, name)}")
        if self.num_hidden_layers > MAX_LAYERS:
            raise ValueError(f"num_hidden_layers must be at most {MAX_LAYERS}, got {self.num_hidden_layers}")
        for part in ("decoder", "auxiliary"):
            scale_factor, num_convs = getattr(self, f"{part}_scale_factor"), getattr(self, f"{part}_num_convs")
            if scale_factor > 1 and num_convs * math.log(scale_factor) > math.log(MAX_UPSAMPLING):
                raise ValueError(
                    f"{part}_scale_factor {scale_factor} after each of {num_convs} convolutions upsamples by more "
                    f"than {MAX_UPSAMPLING}"
                )
        sides = [self.image_size] * 2 if isinstance(self.image_size, int) else self.image_size
        if len(sides) != 2 or min(sides) < 1 or max(sides) > MAX_SIZE:
            raise ValueError(
                f"image_size must be a positive number, or a positive height and width, got {self.image_size}"
            )

    def _check_values(self) -> None:
        for name in ("auxiliary_loss_weight", "initializer_range", "layer_norm_eps"):
            value = getattr(self, name)
            if not 0 <= value < FLOAT32_MAX:
                raise ValueError(f"{name} must be finite and not negative, got {value}")
        for name in ("hidden_dropout_prob", "attention_probs_dropout_prob", "drop_path_rate"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"{name} must be in [0, 1), got {getattr(self, name)}")
        if self.hidden_act not in ACT2FN:
            raise ValueError(f"hidden_act must be one such as gelu, relu, silu or quick_gelu, got {self.hidden_act!r}")

    def _check_names(self) -> None:
        count = len(self.id2label)
        check_num_labels(count)
        if self.is_binary and count != 2:
            raise ValueError(
                f"a binary model (num_labels=1) has two classes, background and foreground; id2label names {count}"
            )
        # Keys are text in JSON.
        missing = {str(index) for index in range(count)} - {str(key) for key in self.id2label}
        if missing:
            raise ValueError(
                f"id2label must name the classes 0 to {count - 1}, but {min(missing, key=int)} is missing among "
                f"{count} names"
            )
        for index, name in self.id2label.items():
            if not isinstance(name, str):
                raise ValueError(f"id2label must hold names, got {name!r} for class {index}")

    def _check_classes(self) -> None:
        self._check_names()
        if self.semantic_loss_ignore_index in self.id2label:
            raise ValueError(
                f"semantic_loss_ignore_index {self.semantic_loss_ignore_index} is one of the {len(self.id2label)} "
                "classes, which would never be trained: choose another, such as -100"
            )
        if self.palette is None:
            return
        if len(self.palette) != len(self.id2label):
            raise ValueError(
                f"palette must hold {len(self.id2label)} colours, one for each class, got {len(self.palette)}"
            )
        for index, color in enumerate(self.palette):
            if len(color) != 3 or not all(isinstance(value, int) and 0 <= value <= 255 for value in color):
                raise ValueError(f"palette must hold RGB colours of 0 to 255, got {color} for class {index}")

    def validate_architecture(self) -> None:
        """Checks that the fields fit together; runs at creation, on saving and when a model is built."""
        self._check_sizes()
        self._check_values()
        self._check_classes()
        if self.hidden_size % self.num_attention_heads:
            raise ValueError(
                f"hidden_size {self.hidden_size} is not divisible by num_attention_heads {self.num_attention_heads}"
            )
        if self.decoder_type not in DECODER_TYPES:
            raise ValueError(f"decoder_type must be one of {', '.join(DECODER_TYPES)}, got {self.decoder_type!r}")
        LossSettings.from_config(self)
        outside = [i for i in self.auxiliary_out_indices if not 0 <= i <= self.num_hidden_layers]
        if outside:
            raise ValueError(f"auxiliary_out_indices {outside} lie outside the {self.num_hidden_layers} layers")
        if self.auxiliary_out_indices != sorted(set(self.auxiliary_out_indices)):
            raise ValueError(f"auxiliary_out_indices must ascend without repetition, got {self.auxiliary_out_indices}")
        for name in ("decoder_kernel_size", "mla_classifier_kernel_size"):
            if getattr(self, name) % 2 == 0:
                raise ValueError(f"{name} must be odd, got {getattr(self, name)}")

    @property
    def decoder_indices(self) -> list[int]:
        """`out_indices` with negative ones counted out."""
        return [self.stage_names.index(name) for name in self.out_features]

    def check_decoder(self) -> None:
        """Checks that the layers suit the decoder; backbones, which have none, skip this."""
        if not self.decoder_indices:
            raise ValueError("out_indices must name a layer, got none")
        if self.decoder_type != "mla":
            if len(self.decoder_indices) != 1:
                raise ValueError(
                    f"the {self.decoder_type} decoder reads one layer, got out_indices {self.out_indices}"
                )
        elif self.auxiliary_out_indices not in ([], self.decoder_indices):
            raise ValueError(
                "the mla decoder has an auxiliary classifier on every stream or none: auxiliary_out_indices must be "
                f"[] or {self.decoder_indices}, got {self.auxiliary_out_indices}"
            )


def known_fields(told: dict[str, Any], origin: str) -> dict[str, Any]:
    """`told`, if `SetrConfig` has all of these fields; by itself it accepts unknown ones silently."""
    known = {field.name for field in fields(SetrConfig)} | {"out_indices", "num_labels"}
    unknown = sorted(set(told) - known)
    if unknown:
        raise ValueError(f"{origin} has the fields {unknown}, which SetrConfig does not have")
    return told


__all__ = ["SetrConfig", "known_fields"]
