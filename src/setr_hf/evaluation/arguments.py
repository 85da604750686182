"""The options that `evaluate`, `compare` and `calibrate` share."""

from dataclasses import dataclass
from pathlib import Path

from ..data.arguments import SplitArguments, dataset_name, option
from ..errors import SetrError
from ..inference.arguments import ProtocolArguments


@dataclass
class SampleArguments(ProtocolArguments):
    """Which samples are segmented, and how. Raises [`SetrError`] as [`ProtocolArguments`] does, and if a number is
    less than 1.
    """

    _argument_group_name = "evaluation"

    limit: int | None = option(None, "only the first images")
    skip_bad_samples: bool = option(False, "leave out samples that cannot be used")
    threads: int | None = option(None, "CPU threads of each process, by default as many as torch takes")

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("limit", "threads"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise SetrError(f"--{name} must be at least 1, got {value}")


@dataclass
class EvaluationArguments(SampleArguments):
    """How models are evaluated, and where the results go."""

    output: Path | None = option(None, "folder for results, resumed if it exists")

    def output_folder(self, job: str, models: list[str], data: SplitArguments) -> Path:
        """`output`, or by default a folder named after the job, its models, the data, the split and the protocol."""
        run = f"{Path(dataset_name(data.dataset)).name}_{data.split}_{self.protocol}"
        return self.output or Path("outputs", job, "_".join(Path(model).name for model in models), run)
