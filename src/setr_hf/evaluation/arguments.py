"""The options that `evaluate` and `compare` share."""

import os
from dataclasses import dataclass
from pathlib import Path

from ..data.arguments import SplitArguments, dataset_name, option
from ..errors import SetrError


@dataclass
class EvaluationArguments:
    """How models are evaluated. Raises [`SetrError`] if `limit`, `window_batch_size` or `threads` is less than 1."""

    _argument_group_name = "evaluation"

    protocol: str = option("single", "one scale, or several with mirror images", choices=("single", "multi"))
    limit: int | None = option(None, "only the first images")
    skip_bad_samples: bool = option(False, "leave out samples that cannot be used")
    output: Path | None = option(None, "folder for results, resumed if it exists")
    window_batch_size: int = option(32, "windows that a model takes at a time")
    dtype: str = option("float32", "precision that models compute in", choices=("float32", "bfloat16", "float16"))
    threads: int = option(os.cpu_count() or 1, "CPU threads of each process; changes rounding")

    def __post_init__(self) -> None:
        for name in ("limit", "window_batch_size", "threads"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise SetrError(f"--{name.replace('_', '-')} must be at least 1, got {value}")

    def output_folder(self, job: str, models: list[str], data: SplitArguments) -> Path:
        """`output`, or by default a folder named after the job, its models, the data, the split and the protocol."""
        run = f"{Path(dataset_name(data.dataset)).name}_{data.split}_{self.protocol}"
        return self.output or Path("outputs", job, "_".join(Path(model).name for model in models), run)
