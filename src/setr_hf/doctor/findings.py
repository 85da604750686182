"""What the doctor says: a finding for each thing that is wrong."""

from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from typing import Any, Literal, Protocol

from ..tables import print_options
from ..text import listing


Severity = Literal["error", "warning", "note"]
SEVERITIES: tuple[Severity, ...] = ("error", "warning", "note")
NUM_SAMPLES_LISTED = 10


class HasTitle(Protocol):
    @property
    def title(self) -> str:
        """What a finding calls the sample."""


@dataclass(frozen=True)
class Finding:
    """A thing that is wrong.

    Args:
        kind (`str`): Its name, the same in all versions.
        severity (`str`): `"error"`: training ends at it, or learns something else than was meant. `"warning"`: it
            looks like a mistake, and may be none. `"note"`: good to know.
        meaning (`str`): What it is, in a sentence.
        advice (`str`): What mends it.
        samples (`tuple[str, ...]`): The samples concerned, as `split/name`; none if it concerns the whole.
    """

    kind: str
    severity: Severity
    meaning: str
    advice: str
    samples: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """For JSON: the samples' number, `count`, and the first of their names."""
        return {**asdict(self), "count": len(self.samples), "samples": list(self.samples[:NUM_SAMPLES_LISTED])}


def about(samples: Iterable[HasTitle], kind: str, severity: Severity, meaning: str, advice: str) -> list[Finding]:
    """The finding about these samples; none if there are none."""
    titles = tuple(sample.title for sample in samples)
    return [Finding(kind, severity, meaning, advice, titles)] if titles else []


def sorted_by_severity(findings: Iterable[Finding]) -> list[Finding]:
    """The worst first, otherwise in the order given."""
    return sorted(findings, key=lambda finding: SEVERITIES.index(finding.severity))


def exit_status(findings: Iterable[Finding]) -> int:
    """0 if nothing is worse than a note, else 1."""
    return int(any(finding.severity != "note" for finding in findings))


def print_findings(findings: list[Finding]) -> None:
    """Prints findings, a line for what is wrong, where, and what mends it."""
    if not findings:
        print("nothing is wrong")
        return
    print_options(line for finding in findings for line in finding_lines(finding))


def finding_lines(finding: Finding) -> Iterator[tuple[str, str]]:
    yield finding.severity, f"{finding.kind}: {finding.meaning}"
    if finding.samples:
        plural = "s" if len(finding.samples) > 1 else ""
        yield "", f"{len(finding.samples):,} sample{plural}: {listing(list(finding.samples))}"
    yield "", f"→ {finding.advice}"
