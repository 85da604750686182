"""`TrainingArguments` with what [`SetrTrainer`] adds, for code and for command lines."""

from dataclasses import dataclass, field

from transformers import TrainingArguments


@dataclass
class SetrTrainingArguments(TrainingArguments):
    """
    `TrainingArguments` of [`SetrTrainer`].

    The paper's optimizer and schedule are `optim="sgd"`, `optim_args="momentum=0.9"`, `weight_decay=0.0`,
    `max_grad_norm=0.0`, `head_learning_rate_ratio=10`, `lr_scheduler_type="polynomial"` and
    `lr_scheduler_kwargs={"power": 0.9, "min_lr": 1e-4}`: with the key `min_lr` the polynomial schedule has the
    absolute floor of [`poly_schedule`], without it it is the stock one.

    Args:
        head_learning_rate_ratio (`float`, defaults to 1.0):
            Learning rate of the heads as a multiple of `learning_rate`; 10 in the paper. Which parameters are heads
            says [`head_parameter_names`].
        sync_batch_norm (`bool`, defaults to `True`):
            Whether BatchNorm takes its statistics over the batches of all processes, where there are several with a
            GPU each. PyTorch has no such BatchNorm on the CPU, where this changes nothing.
        freeze_batch_norm (`bool`, defaults to `False`):
            Whether BatchNorm layers normalize with their running statistics while training, and leave them as they
            are. Their weights and biases are trained all the same.
        num_prediction_pictures (`int`, defaults to 4):
            How many photographs of the evaluation set are drawn, beside truth and prediction, at each evaluation.
        remove_unused_columns (`bool`, defaults to `False`), metric_for_best_model (`str`, defaults to `"mean_iou"`),
        batch_eval_metrics (`bool`, defaults to `True`):
            As in `TrainingArguments`, with other defaults.

    Raises:
        `ValueError`: `num_prediction_pictures` is negative; see also `TrainingArguments`.
    """

    head_learning_rate_ratio: float = field(
        default=1.0, metadata={"help": "learning rate of the heads as a multiple of learning_rate; 10 in the paper"}
    )
    sync_batch_norm: bool = field(
        default=True,
        metadata={"help": "BatchNorm over the batches of all GPU processes; changes nothing on the CPU"},
    )
    freeze_batch_norm: bool = field(
        default=False, metadata={"help": "BatchNorm keeps and uses its running statistics while training"}
    )
    num_prediction_pictures: int = field(
        default=4, metadata={"help": "photographs drawn with truth and prediction at each evaluation; 0 for none"}
    )
    remove_unused_columns: bool = field(
        default=False, metadata={"help": "must stay off: photographs are no input of the model"}
    )
    metric_for_best_model: str | None = field(
        default="mean_iou", metadata={"help": "score of the evaluation that decides which checkpoint is best"}
    )
    batch_eval_metrics: bool = field(
        default=True, metadata={"help": "add the confusion matrices up batch by batch, rather than hold all of them"}
    )

    def __post_init__(self):
        super().__post_init__()
        if self.num_prediction_pictures < 0:
            raise ValueError(f"num_prediction_pictures must be 0 or more, got {self.num_prediction_pictures}")


__all__ = ["SetrTrainingArguments"]
