"""`TrainingArguments` with what [`SetrTrainer`] adds, for code and for command lines."""

from dataclasses import dataclass

from transformers import TrainingArguments

from ..data.arguments import option
from ..errors import SetrError


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
        sync_batch_norm (`bool`, *optional*, defaults to `True`): Whether BatchNorm takes its statistics over the
            batches of all processes, if there are several with a GPU each. PyTorch has no such BatchNorm on the CPU,
            where this changes nothing.
        freeze_batch_norm (`bool`, *optional*, defaults to `False`): Whether BatchNorm layers normalize with their
            running statistics while training, and leave these unchanged. Their weights and biases are trained.
        num_prediction_pictures (`int`, *optional*, defaults to 4): How many photos of the evaluation set are drawn
            beside ground truth and prediction at each evaluation.
        remove_unused_columns (`bool`, *optional*, defaults to `False`): See `TrainingArguments`; must stay off.
        metric_for_best_model (`str`, *optional*, defaults to `"mean_iou"`): See `TrainingArguments`.
        batch_eval_metrics (`bool`, *optional*, defaults to `True`): See `TrainingArguments`.
        logging_nan_inf_filter (`bool`, *optional*, defaults to `False`): See `TrainingArguments`. Stock, it hides
            losses that are not finite, and waits for the GPU at each batch; [`SetrTrainer`] stops at the first.

    Raises:
        [`SetrError`]: `num_prediction_pictures` is negative; see also `TrainingArguments`.

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
    sync_batch_norm: bool = option(True, "BatchNorm over the batches of all GPU processes; changes nothing on the CPU")
    freeze_batch_norm: bool = option(False, "BatchNorm uses and keeps its running statistics while training")
    num_prediction_pictures: int = option(4, "predictions drawn at each evaluation")
    remove_unused_columns: bool = option(False, "must stay off: photos are not model inputs")
    metric_for_best_model: str | None = option(
        "mean_iou", "the evaluation's score that decides which checkpoint is the best"
    )
    batch_eval_metrics: bool = option(
        True, "add up the confusion matrices batch by batch, instead of holding all of them"
    )
    logging_nan_inf_filter: bool = option(False, "leave losses that are not finite out of the log; none get there")

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.num_prediction_pictures < 0:
            raise SetrError(f"num_prediction_pictures must be 0 or more, got {self.num_prediction_pictures}")
