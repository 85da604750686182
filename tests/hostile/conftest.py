"""Says at the end how the inputs of each family ended."""

from collections import Counter, defaultdict

import pytest


def pytest_terminal_summary(terminalreporter):
    """The counts travel as properties of the reports, which other processes of pytest-xdist send here."""
    counts: dict[str, Counter] = defaultdict(Counter)
    for report in terminalreporter.getreports("passed") + terminalreporter.getreports("failed"):
        for name, value in report.user_properties:
            if name == "hostile":
                counts[value[0]].update(value[1])
    if not counts:
        return
    terminalreporter.section("hostile inputs")
    total: Counter = sum(counts.values(), Counter())
    terminalreporter.write_line(f"{'family':<32}{'inputs':>8}{'result':>8}{'refused':>8}")
    for name, endings in [*sorted(counts.items()), ("all", total)]:
        terminalreporter.write_line(f"{name:<32}{endings.total():>8,}{endings['result']:>8,}{endings['refused']:>8,}")


@pytest.fixture
def report_endings(request):
    """A function that adds the counts of a family to the report."""
    return lambda name, endings: request.node.user_properties.append(("hostile", (name, dict(endings))))
