"""`TrainingArguments` with what [`SetrTrainer`] adds, for code and for command lines."""

import math
from argparse import Namespace
from dataclasses import dataclass
from inspect import signature

from torch._inductor import list_mode_options
from torch.utils.checkpoint import checkpoint
from transformers import TrainingArguments

from ..data.arguments import option
from ..errors import SetrError
from ..inference.arguments import WINDOW_BATCH_SIZE


# The scores of an evaluation, one of which decides on the best checkpoint.
SCORES = ("mean_iou", "mean_accuracy", "overall_accuracy")
# The least values of what torch and Transformers would refuse much later, or follow into nonsense.
LEAST = dict.fromkeys(["learning_rate", "weight_decay", "max_grad_norm", "adam_beta1", "adam_beta2"], 0)
LEAST |= dict.fromkeys(
    ["adam_epsilon", "warmup_steps", "num_train_epochs", "eval_delay", "num_prediction_pictures", "num_frozen_layers"],
    0,
)
LEAST |= dict.fromkeys(["eval_steps", "logging_steps", "save_steps", "dataloader_num_workers", "seed", "data_seed"], 0)
LEAST |= dict.fromkeys(["per_device_train_batch_size", "per_device_eval_batch_size", "eval_accumulation_steps"], 1)
LEAST |= dict.fromkeys(["gradient_accumulation_steps", "dataloader_prefetch_factor", "ddp_timeout"], 1)
LEAST |= {"eval_window_batch_size": 1}
LARGEST_SEED = 2**32 - 1
LOGGING_STEPS = 50
# What the stock `Trainer` can do for models of text only: the values that do without, and the reason.
POSSIBLE: dict[str, tuple[list, str]] = {
    "label_smoothing_factor": ([0], "the model has its own, --label-smoothing or semantic_loss_label_smoothing"),
    "train_sampling_strategy": (["random", "sequential"], "photos have no length to sort them by"),
    "use_liger_kernel": ([False], "there are no such kernels for SETR"),
    "neftune_noise_alpha": ([None], "photos have no embeddings of words"),
    "include_for_metrics": ([[]], "scores come from confusion matrices alone"),
}


def check_values(arguments: "SetrTrainingArguments | Namespace") -> None:
    """Raises a [`SetrError`] that names the first value out of range, or not possible with photos."""
    for name, least in LEAST.items():
        value = getattr(arguments, name)
        if isinstance(value, (int, float)) and not least <= value < math.inf:
            raise SetrError(f"{name} must be a number of at least {least}, got {value}")
    ratio = arguments.head_learning_rate_ratio
    if not 0 < ratio < math.inf:
        raise SetrError(f"head_learning_rate_ratio must be a number greater than 0, got {ratio}")
    if not 0 < arguments.layer_decay <= 1:
        raise SetrError(f"layer_decay must be a number above 0 and at most 1, got {arguments.layer_decay}")
    if arguments.freeze_encoder and arguments.layer_decay != 1:
        raise SetrError("freeze_encoder leaves no layers for layer_decay: leave one of them out")
    if arguments.freeze_encoder and arguments.num_frozen_layers:
        raise SetrError("freeze_encoder freezes all layers: leave num_frozen_layers out")
    if arguments.feature_folder is not None and not arguments.freeze_encoder:
        raise SetrError("feature_folder is for the features of a frozen encoder: set freeze_encoder as well")
    if arguments.ema is not None and not 0 < arguments.ema < 1:
        raise SetrError(f"ema must be a number above 0 and below 1, got {arguments.ema}: leave it out for no average")
    for name in ("adam_beta1", "adam_beta2"):
        if getattr(arguments, name) >= 1:
            raise SetrError(f"{name} must be less than 1, got {getattr(arguments, name)}")
    for name in ("seed", "data_seed"):
        if (getattr(arguments, name) or 0) > LARGEST_SEED:
            raise SetrError(f"{name} must be at most {LARGEST_SEED}, got {getattr(arguments, name)}")
    for name, (possible, reason) in POSSIBLE.items():
        if getattr(arguments, name) not in possible:
            values = " or ".join(map(str, possible))
            raise SetrError(f"{name} must be {values}, got {getattr(arguments, name)}: {reason}")
    if arguments.dataloader_persistent_workers and not arguments.dataloader_num_workers:
        raise SetrError("dataloader_persistent_workers needs workers: set dataloader_num_workers")
    mode = arguments.torch_compile_mode
    if mode is not None and mode not in (modes := list_mode_options()):
        raise SetrError(f"torch_compile_mode must be one of {', '.join(modes)}, got {mode!r}")


@dataclass
class SetrTrainingArguments(TrainingArguments):
    """`TrainingArguments` of [`SetrTrainer`].

    The paper's optimizer and schedule are `optim="sgd"`, `optim_args="momentum=0.9"`, `weight_decay=0.0`,
    `max_grad_norm=0.0`, `head_learning_rate_ratio=10`, `lr_scheduler_type="polynomial"` and
    `lr_scheduler_kwargs={"power": 0.9, "min_lr": 1e-4}`: with the key `min_lr` the polynomial schedule has the
    absolute floor of [`poly_schedule`], without it it is the stock one.

    Args:
        head_learning_rate_ratio (`float`, *optional*, defaults to 1.0): Learning rate of the heads as a multiple of
            `learning_rate`; 10 in the paper. [`head_parameter_names`] defines which parameters are heads.
        layer_decay (`float`, *optional*, defaults to 1.0): Factor, above 0 and at most 1, from the learning rate of
            each layer of the encoder to that of the layer before it, see [`rate_factors`]; 1 for one rate.
        ema (`float`, *optional*): Decay d, above 0 and below 1, of an exponential moving average of the weights, which
            is evaluated and saved in their place, see [`WeightAverage`]. By default there is none.
        sync_batch_norm (`bool`, *optional*, defaults to `True`): Whether BatchNorm takes its statistics over the
            batches of all processes, if there are several with a GPU each. PyTorch has no such BatchNorm on the CPU,
            where this changes nothing.
        freeze_batch_norm (`bool`, *optional*, defaults to `False`): Whether BatchNorm layers normalize with their
            running statistics while training, and leave these unchanged. Their weights and biases are trained.
        num_frozen_layers (`int`, *optional*, defaults to 0): How many of the encoder's layers, from the first, keep
            their weights, and the embeddings with them; 0 for none of these.
        freeze_encoder (`bool`, *optional*, defaults to `False`): Whether the encoder, SETR's own or another in its
            place, keeps its weights, without dropout and drop path. If each photo looks the same in every epoch, or
            has a mirror image at most, what it makes of them is computed once and kept, see [`FrozenEncoder`].
        feature_folder (`str`, *optional*): Where a frozen encoder's features are kept; by default in the folder
            `_features` of `output_dir`, which is not uploaded. "none" computes them at each step.
        eval_window_batch_size (`int`, *optional*, defaults to 8): How many windows the model takes at a time in
            evaluation.
        num_prediction_pictures (`int`, *optional*, defaults to 4): How many photos of the evaluation set are drawn
            beside ground truth and prediction at each evaluation.
        logging_steps (`float`, *optional*): See `TrainingArguments`. Defaults to 50, and to a tenth of a run that has
            fewer than ten times as many steps.
        remove_unused_columns (`bool`, *optional*, defaults to `False`): See `TrainingArguments`; must stay off.
        metric_for_best_model (`str`, *optional*, defaults to `"mean_iou"`): See `TrainingArguments`.
        batch_eval_metrics (`bool`, *optional*, defaults to `True`): See `TrainingArguments`.
        logging_nan_inf_filter (`bool`, *optional*, defaults to `False`): See `TrainingArguments`. Stock, it hides
            losses that are not finite, and waits for the GPU at each batch; [`SetrTrainer`] stops at the first.

    Raises:
        [`SetrError`]: a number is NaN, infinite or out of its range, or an option is set that needs text; see also
            `TrainingArguments`.

    Example:

    ```python
    >>> from setr_hf import SetrTrainingArguments

    >>> arguments = SetrTrainingArguments("outputs/mine", head_learning_rate_ratio=10, report_to=[])
    >>> arguments.head_learning_rate_ratio, arguments.remove_unused_columns, arguments.metric_for_best_model
    (10, False, 'mean_iou')
    ```
    """

    _argument_group_name = "training"

    head_learning_rate_ratio: float = option(1.0, "learning rate of the heads as a multiple")
    layer_decay: float = option(1.0, "factor from each layer's learning rate to that of the layer before")
    ema: float | None = option(None, "decay of a moving average of the weights: evaluated and saved; as 0.999")
    sync_batch_norm: bool = option(True, "BatchNorm over the batches of all GPU processes; changes nothing on the CPU")
    freeze_batch_norm: bool = option(False, "BatchNorm uses and keeps its running statistics while training")
    num_frozen_layers: int = option(0, "first layers whose weights stay as they are")
    freeze_encoder: bool = option(False, "train the heads alone; features are kept where photos do not vary")
    feature_folder: str | None = option(None, "where these features are kept, if not in the output folder, or none")
    eval_window_batch_size: int = option(WINDOW_BATCH_SIZE, "windows that the model takes at a time in evaluation")
    num_prediction_pictures: int = option(4, "predictions drawn at each evaluation")
    logging_steps: float | None = option(None, f"steps between losses in the log, if not {LOGGING_STEPS} or fewer")
    remove_unused_columns: bool = option(False, "must stay off: photos are not model inputs")
    metric_for_best_model: str | None = option(
        "mean_iou", "the evaluation's score that decides which checkpoint is the best"
    )
    batch_eval_metrics: bool = option(
        True, "add up the confusion matrices batch by batch, instead of holding all of them"
    )
    logging_nan_inf_filter: bool = option(False, "leave losses that are not finite out of the log; none get there")

    def __post_init__(self) -> None:
        self.logs_short_runs = self.logging_steps is None
        if self.logging_steps is None:
            self.logging_steps = LOGGING_STEPS
        super().__post_init__()
        if self.device.type == "cpu":
            # It would change nothing but that torch warns.
            self.dataloader_pin_memory = False
        check_values(self)
        unknown = set(self.gradient_checkpointing_kwargs or ()) - set(signature(checkpoint).parameters)
        if unknown:
            raise SetrError(f"gradient_checkpointing_kwargs holds {sorted(unknown)}, which torch does not know")
