"""The options of every job that segments photos."""

import math
from dataclasses import asdict, dataclass, field

from ..errors import SetrError
from .quantization import QUANTIZATIONS, check_library


PROTOCOLS = ("single", "multi")
DTYPES = ("float32", "bfloat16", "float16")
PROTOCOL = {"help": "one scale, or several with mirror images", "choices": PROTOCOLS}
SCALES = {"help": "for --protocol multi, if not the published ones", "metavar": "RATIO"}
WINDOWS = {"help": "windows that a model takes at a time"}
# More at a time fill the memory of small machines, and on a CPU are slower.
WINDOW_BATCH_SIZE = 8
CONFIDENCE = {"help": "write how sure the model is of each pixel, as a map and a picture"}
IGNORE_BELOW = {"help": "no class where the model is less sure than this, more than 0 to 1", "metavar": "SHARE"}
DTYPE = {"help": "precision that models compute in", "choices": DTYPES}
QUANTIZATION = {"help": "integers for the encoder's weights", "choices": tuple(QUANTIZATIONS)}


@dataclass
class ProtocolArguments:
    """How a model segments photos. Raises [`SetrError`] if there are `scales` for a single one, one is not a positive
    ratio, `window_batch_size` is less than 1, or the library of `quantization` cannot be loaded.
    """

    _argument_group_name = "test protocol"

    protocol: str = field(default="single", metadata=PROTOCOL)
    scales: list[float] | None = field(default=None, metadata=SCALES)
    window_batch_size: int = field(default=WINDOW_BATCH_SIZE, metadata=WINDOWS)
    dtype: str = field(default="float32", metadata=DTYPE)
    quantization: str | None = field(default=None, metadata=QUANTIZATION)

    def __post_init__(self) -> None:
        if self.window_batch_size < 1:
            raise SetrError(f"--window-batch-size must be at least 1, got {self.window_batch_size}")
        if self.quantization is not None:
            check_library(self.quantization)
        if self.scales is None:
            return
        if self.protocol == "single":
            raise SetrError("--scales belongs to --protocol multi")
        if not all(0 < ratio < math.inf for ratio in self.scales):
            raise SetrError(f"--scales must be positive ratios, got {' '.join(f'{ratio:g}' for ratio in self.scales)}")


@dataclass
class ConfidenceArguments:
    """What becomes of the confidence in a label map. Raises [`SetrError`] if `ignore_below` is not a share."""

    _argument_group_name = "confidence"

    confidence: bool = field(default=False, metadata=CONFIDENCE)
    ignore_below: float | None = field(default=None, metadata=IGNORE_BELOW)

    def __post_init__(self) -> None:
        if self.ignore_below is not None and not 0 < self.ignore_below <= 1:
            raise SetrError(f"--ignore-below must be more than 0 and at most 1, got {self.ignore_below:g}")

    @property
    def need_confidence(self) -> bool:
        """Whether the confidence shows in what is written."""
        return self.confidence or self.ignore_below is not None

    def settings(self, temperature: float) -> dict:
        """What results depend on because the confidence at this `temperature` shows in them; else nothing."""
        return {**asdict(self), "temperature": temperature} if self.need_confidence else {}
