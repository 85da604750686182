"""`Trainer` for SETR: the paper's rates and test protocol, and runs that survive being killed."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.fsdp import FSDPModule, fully_shard
from transformers import EvalPrediction, SchedulerType, Trainer
from transformers.trainer import TRAINER_STATE_NAME
from transformers.trainer_optimizer import is_optimizer_factory
from transformers.trainer_utils import has_length
from transformers.training_args import ParallelMode
from transformers.utils import logging

from ..inference.sliding_windows import segment
from ..metrics import confusion_matrix, segmentation_scores
from .arguments import SetrTrainingArguments
from .optimization import parameter_groups, poly_schedule
from .output_folder import (
    is_complete,
    last_complete_checkpoint,
    output_folder_lock,
    remove_incomplete_checkpoints,
)
from .prediction_pictures import PredictionSamples, publish_picture


logger = logging.get_logger(__name__)


class MeanIouOfMatrices:
    """`compute_metrics` of [`SetrTrainer`]: scores of the sum of all confusion matrices."""

    def __init__(self):
        self.reset()

    def reset(self):
        """Forgets what an evaluation that was broken off has added."""
        self.total = 0

    def __call__(self, prediction: EvalPrediction, compute_result: bool = True) -> dict[str, float]:
        self.total = self.total + torch.as_tensor(prediction.predictions).sum(dim=0).cpu().numpy()
        if not compute_result:
            return {}
        scores = segmentation_scores(self.total)
        self.reset()
        return {name: scores[name] for name in ("mean_iou", "mean_accuracy", "overall_accuracy")}


def batch_norm_layers(model: nn.Module) -> list[nn.Module]:
    return [module for module in model.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)]


@contextmanager
def whole_parameters(model: nn.Module, reshard_after_forward: bool) -> Iterator[None]:
    """
    Inside, the modules that FSDP2 shards have their parameters whole, and a forward pass is no communication: the
    processes may run it a different number of times. After it they are sharded again.
    """
    sharded = [module for module in model.modules() if isinstance(module, FSDPModule)]
    for module in sharded:
        module.set_reshard_after_forward(False, recurse=False)
        module.unshard()
    try:
        yield
    finally:
        for module in sharded:
            module.set_reshard_after_forward(reshard_after_forward, recurse=False)
            module.reshard()


class SetrTrainer(Trainer):
    """
    `Trainer` with what SETR needs besides:

    - The heads' own learning rate, and the poly schedule with an absolute floor, see [`SetrTrainingArguments`].
    - Synchronized or frozen BatchNorm. Saved models hold plain BatchNorm layers.
    - Evaluation of label maps at the photographs' original sizes: those of the stock pipeline. What is gathered from
      processes and batches is one confusion matrix for each image, not its logits, so photographs may differ in size.
      There is no evaluation loss. Pictures of some predictions go to `output_dir/predictions`.
    - Checkpoints of which one knows whether they are complete, and resumption from the last complete one.

    Args:
        args ([`SetrTrainingArguments`])
        processing_class ([`SetrImageProcessor`]): The processor whose windows the evaluation uses.
        train_dataset: Such as [`TrainingExamples`]. If it has a method `set_epoch`, that is called
            before each epoch.
        eval_dataset: With the columns `photo` and `label_map`, see [`evaluation_examples`].
        compute_metrics (`Callable`, *optional*): Takes the matrices `(num_images, num_labels, num_labels)`, rows the
            true class, as `predictions`; by default [`MeanIouOfMatrices`].
        kwargs: As of `Trainer`.

    Raises:
        `ValueError`: `args` are of another class, drop columns, or shard by FSDP 1; or the model has a single class.
    """

    def __init__(self, *args, compute_metrics: Callable | None = None, **kwargs):
        super().__init__(*args, compute_metrics=compute_metrics or MeanIouOfMatrices(), **kwargs)
        if not isinstance(self.args, SetrTrainingArguments):
            raise ValueError(f"SetrTrainer takes SetrTrainingArguments as args, got {type(self.args).__name__}")
        if self.args.remove_unused_columns:
            raise ValueError("set remove_unused_columns=False: photographs are no input of the model")
        if self.is_fsdp_enabled and not self.accelerator.is_fsdp2:
            raise ValueError(
                "FSDP 1 cannot evaluate photographs of different sizes, as each has its own number of forward passes: "
                "set the FSDP version to 2"
            )
        config = self.model.config
        if config.num_labels < 2:
            raise ValueError(
                f"num_labels={config.num_labels}: with one class there is nothing to learn, the loss is always 0. To "
                "find one kind of object, give the background a class of its own: num_labels=2"
            )
        if self.optimizer is not None and self.args.head_learning_rate_ratio != 1:
            raise ValueError("head_learning_rate_ratio has no effect on an optimizer that is passed in: leave it at 1")
        self.prediction_samples = PredictionSamples(0, None)
        self.head_learning_rate = None

    def prepare_batch_norm(self, model: nn.Module):
        """
        In place, before the model is wrapped for several processes: BatchNorm over all of them, where they have GPUs,
        and in fp32 under FSDP2, which would cast its weights to bf16 or fp16, unlike its running statistics. Names of
        parameters and buffers stay.
        """
        if any(isinstance(layer, nn.SyncBatchNorm | FSDPModule) for layer in batch_norm_layers(model)):
            return
        is_distributed_on_gpu = self.args.parallel_mode == ParallelMode.DISTRIBUTED and self.args.device.type == "cuda"
        if self.args.sync_batch_norm and is_distributed_on_gpu:
            nn.SyncBatchNorm.convert_sync_batchnorm(model)
        if self.is_fsdp_enabled and self.accelerator.mixed_precision != "no":
            for layer in batch_norm_layers(model):
                fully_shard(layer)

    def create_optimizer(self, model: nn.Module | None = None) -> torch.optim.Optimizer:
        """The stock optimizer; where the heads have a rate of their own, with groups of theirs."""
        model = self.model if model is None else model
        self.prepare_batch_norm(model)
        if self.optimizer is None and self.args.head_learning_rate_ratio != 1:
            optimizer_cls, options = self.optimizer_cls_and_kwargs or self.get_optimizer_cls_and_kwargs(
                self.args, model
            )
            if is_optimizer_factory(optimizer_cls) or {"params", "model", "optimizer_dict"} & set(options):
                raise ValueError(
                    f"optim={self.args.optim} makes its own parameter groups, so the heads cannot have theirs: set "
                    "head_learning_rate_ratio=1, or another optim"
                )
            groups = parameter_groups(
                model,
                self.args.learning_rate,
                self.args.head_learning_rate_ratio,
                self.args.weight_decay,
                self.get_decay_parameter_names(model),
            )
            self.optimizer_cls_and_kwargs = optimizer_cls, {**options, "params": groups}
        return super().create_optimizer(model)

    def create_scheduler(self, num_training_steps: int, optimizer: torch.optim.Optimizer | None = None):
        """The stock schedule, but poly with an absolute floor where `lr_scheduler_kwargs` names `min_lr`."""
        options = self.args.lr_scheduler_kwargs or {}
        if (
            self.lr_scheduler is None
            and self.args.lr_scheduler_type == SchedulerType.POLYNOMIAL
            and "min_lr" in options
        ):
            if unknown := sorted(set(options) - {"power", "min_lr"}):
                raise ValueError(
                    f"lr_scheduler_kwargs of the polynomial schedule with min_lr may hold power besides, got {unknown}"
                )
            if self.args.get_warmup_steps(num_training_steps):
                raise ValueError("the polynomial schedule with min_lr has no warm-up: set warmup_steps to 0")
            self.lr_scheduler = poly_schedule(
                self.optimizer if optimizer is None else optimizer, num_training_steps, **options
            )
            self._created_lr_scheduler = True
        return super().create_scheduler(num_training_steps, optimizer)

    def _get_learning_rate(self) -> float:
        """The rate of the first group. That of the heads is kept for `log`, before which the schedule moves on."""
        head_rates = [group["lr"] for group in self.optimizer.param_groups if group.get("name", "").startswith("head")]
        self.head_learning_rate = float(head_rates[0]) if head_rates else None
        return super()._get_learning_rate()

    def log(self, logs: dict[str, float], start_time: float | None = None):
        if "learning_rate" in logs and self.head_learning_rate is not None:
            logs["head_learning_rate"] = self.head_learning_rate
        super().log(logs, start_time)

    def compute_loss(self, model: nn.Module, *args, **kwargs):
        if self.args.freeze_batch_norm:
            # Here, because `training_step` has just set the whole model to training mode.
            for layer in batch_norm_layers(model):
                layer.eval()
        return super().compute_loss(model, *args, **kwargs)

    def train(self, resume_from_checkpoint: str | bool | None = None, *args, **kwargs):
        """
        As `Trainer.train`, but `resume_from_checkpoint=True` means the last **complete** checkpoint in the output
        folder, or the beginning, with a warning, where there is none. Incomplete ones are removed before resuming.

        Raises:
            `ValueError`: `resume_from_checkpoint` is a folder that is no complete checkpoint.
        """
        output_dir = self.args.output_dir
        if isinstance(resume_from_checkpoint, str) and not is_complete(resume_from_checkpoint):
            raise ValueError(
                f"{resume_from_checkpoint} is no complete checkpoint; the last one in {output_dir} is "
                f"{last_complete_checkpoint(output_dir)}"
            )
        if resume_from_checkpoint:
            if self.args.should_save:
                remove_incomplete_checkpoints(output_dir)
            self.accelerator.wait_for_everyone()
        if resume_from_checkpoint is True:
            resume_from_checkpoint = last_complete_checkpoint(output_dir)
            if resume_from_checkpoint is None:
                logger.warning(f"{output_dir} holds no complete checkpoint: training starts at the beginning")
        return super().train(resume_from_checkpoint, *args, **kwargs)

    def _get_dataloader(self, *args, **kwargs):
        dataloader = super()._get_dataloader(*args, **kwargs)
        # The seed of the workers is drawn when they start. From the global generator, a resumed run, which starts
        # persistent workers again, would go on with other random numbers than the run it resumes.
        dataloader.base_dataloader.generator = torch.Generator()
        return dataloader

    def get_eval_dataloader(self, eval_dataset=None):
        """As stock, but `dataloader_drop_last` is for training: every photograph of an evaluation counts."""
        drop_last, self.args.dataloader_drop_last = self.args.dataloader_drop_last, False
        try:
            return super().get_eval_dataloader(eval_dataset)
        finally:
            self.args.dataloader_drop_last = drop_last

    def _run_epoch(self, *, epoch: int, **kwargs):
        if self.state.global_step >= self.state.max_steps:
            # Resumed from the last step. Stock, this would train one step more.
            self.control.should_training_stop = True
            return
        if hasattr(self.train_dataset, "set_epoch"):
            # Accelerate's loaders pass the epoch on to the sampler only, if there are several processes or the first
            # batches of a resumed epoch are skipped.
            self.train_dataset.set_epoch(epoch)
        super()._run_epoch(epoch=epoch, **kwargs)

    def _save_checkpoint(self, model: nn.Module, trial):
        if self.args.should_save:
            # A checkpoint of this step that an earlier run left is incomplete from here on.
            checkpoint = Path(self._get_output_dir(trial)) / f"checkpoint-{self.state.global_step}"
            (checkpoint / TRAINER_STATE_NAME).unlink(missing_ok=True)
        super()._save_checkpoint(model, trial)

    def _save_rng_state(self, output_dir: str):
        """What each process saves last. Then the main process writes `trainer_state.json`, and deletes older ones."""
        super()._save_rng_state(output_dir)
        self.accelerator.wait_for_everyone()

    def _save(self, output_dir: str | None = None, state_dict: dict | None = None):
        if isinstance(self.model, FSDPModule):
            # FSDP2 gives the model a class of its own, whose name and file would be saved as the model's code.
            sharded_class, (_, model_class) = type(self.model), type(self.model).__bases__
            sharded_class.__name__, sharded_class.__module__ = model_class.__name__, model_class.__module__
        super()._save(output_dir, state_dict)

    def evaluation_loop(self, dataloader, *args, **kwargs):
        if self.args.parallel_mode == ParallelMode.DISTRIBUTED:
            # Each process has its own running statistics since its last batch; saved are those of the main process.
            for buffer in self.model.buffers():
                dist.broadcast(buffer, src=0)
        if isinstance(self.compute_metrics, MeanIouOfMatrices):
            self.compute_metrics.reset()
        num_images = len(dataloader.dataset) // self.args.world_size if has_length(dataloader.dataset) else None
        num_samples = self.args.num_prediction_pictures if self.is_world_process_zero() else 0
        self.prediction_samples = PredictionSamples(num_samples, num_images)
        return super().evaluation_loop(dataloader, *args, **kwargs)

    def prediction_step(self, model, inputs, prediction_loss_only, ignore_keys=None):
        """No loss, a confusion matrix for each image, and zeros in the place of labels, which a matrix counts."""
        plugin = getattr(self.accelerator.state, "fsdp_plugin", None)
        if not self.is_fsdp_enabled:
            # Not the compiled model, which would be compiled again for each number of windows.
            model = self.accelerator.unwrap_model(model, keep_torch_compile=False)
        with (
            whole_parameters(model, plugin is None or plugin.reshard_after_forward),
            self.compute_loss_context_manager(),
        ):
            predictions = [label_map.numpy() for label_map in segment(model, self.processing_class, inputs["photo"])]
        samples = list(zip(inputs["photo"], inputs["label_map"], predictions))
        for photo, truth, prediction in samples:
            self.prediction_samples.add(photo, truth, prediction)
        matrices = [
            confusion_matrix(prediction, truth, self.model.config.num_labels) for _, truth, prediction in samples
        ]
        matrices = torch.from_numpy(np.stack(matrices)).to(self.args.device)
        return None, matrices, torch.zeros(len(matrices), dtype=torch.long, device=self.args.device)

    def evaluate(self, eval_dataset=None, ignore_keys=None, metric_key_prefix: str = "eval") -> dict[str, float]:
        metrics = super().evaluate(eval_dataset, ignore_keys, metric_key_prefix)
        if self.prediction_samples.samples:
            step = self.state.global_step
            # Several evaluation sets come here one by one, each with a prefix of its own.
            suffix = metric_key_prefix.removeprefix("eval").replace("_", "-")
            path = Path(self.args.output_dir) / "predictions" / f"step-{step}{suffix}.png"
            sheet = self.prediction_samples.sheet(self.model.config)
            publish_picture(sheet, f"{metric_key_prefix}/predictions", path, step, self.callback_handler.callbacks)
            self.prediction_samples.samples.clear()
        return metrics


__all__ = ["SetrTrainer", "SetrTrainingArguments", "last_complete_checkpoint", "output_folder_lock"]
