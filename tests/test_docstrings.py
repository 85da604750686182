"""The examples in docstrings run, and print what they say they print."""

import doctest
import importlib
import pkgutil
import re

import pytest

import setr_hf


class FencedExamples(doctest.DocTestParser):
    """Examples within a Markdown fence, whose closing line is not a part of the last output."""

    def parse(self, string, name="<string>"):
        return super().parse(re.sub(r"^(\s*)```\w*$", r"\1", string, flags=re.MULTILINE), name)


def examples():
    finder = doctest.DocTestFinder(parser=FencedExamples(), exclude_empty=True)
    names = [module.name for module in pkgutil.walk_packages(setr_hf.__path__, "setr_hf.")]
    modules = map(importlib.import_module, ["setr_hf", *(name for name in names if ".scripts" not in name)])
    found = {test.name: test for module in modules for test in finder.find(module) if test.examples}
    return [pytest.param(test, id=name) for name, test in sorted(found.items())]


@pytest.mark.parametrize("example", examples())
def test_an_example_prints_what_it_says(example, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    report = []
    runner = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE)
    runner.run(example, out=report.append)
    assert runner.failures == 0, "".join(report)
