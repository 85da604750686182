"""The blocks of commands and code in README.md and docs/ run as they stand, in a folder where the names that they use
are small real things. A comment above a block changes that:

- `<!-- not run: REASON -->`
- `<!-- test: JOB OPTIONS -->` adds options to the commands of that job, such as a small number of steps;
- `<!-- test: OLD → NEW -->` replaces text.
"""

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml
from docs_folder import PUBLISHED, published, write_docs_folder
from forked_jobs import forking_process
from local_hub import TOKEN, running_hub
from paths import HELPERS, ROOT
from transformers import pipeline

from setr_hf.data.scenes import CLASSES
from setr_hf_cli import find_scripts


PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
LINKED = [*PAGES, ROOT / "CONTRIBUTING.md", ROOT / "SECURITY.md"]
FENCE = re.compile(r"^(?:<!-- (?P<comment>.*) -->\n)?```(?P<language>\w*)\n(?P<code>(?:.*\n)*?)```$", re.MULTILINE)
LINK = re.compile(r"\]\((?!https?://)(?P<path>[^)#\s]*)(?:#(?P<anchor>[^)\s]+))?\)")
COMMANDS = ("setr-hf ", "python ", "pip ", "make ", "accelerate ", "torchrun ", "import ", "from ")


@dataclass
class Block:
    page: Path
    line: int
    language: str
    code: str
    comment: str

    def __str__(self):
        return f"{self.page.relative_to(ROOT)}:{self.line}"

    @property
    def is_run(self):
        return self.language in ("bash", "python") and not self.comment.startswith("not run:")

    @property
    def change(self):
        """Old and new text, or a job and its options, or neither."""
        return self.comment.removeprefix("test: ") if self.comment.startswith("test: ") else ""

    @property
    def changed_code(self):
        old, arrow, new = self.change.partition(" → ")
        return self.code.replace(old, new) if arrow else self.code

    @property
    def more_options(self):
        job, _, options = self.change.partition(" ")
        return {job: shlex.split(options)} if job and " → " not in self.change else {}


def blocks_of(page):
    text = page.read_text(encoding="utf-8")
    for match in FENCE.finditer(text):
        line = text.count("\n", 0, match.start("language")) + 1
        yield Block(page, line, match["language"], match["code"], match["comment"] or "")


BLOCKS = [block for page in PAGES for block in blocks_of(page)]


def name_of(page):
    return page.relative_to(ROOT).as_posix()


def test_every_fence_is_a_block_that_runs_or_says_why_not():
    for page in PAGES:
        fences = [line for line in page.read_text(encoding="utf-8").splitlines() if line.lstrip().startswith("```")]
        assert len(fences) == 2 * len(list(blocks_of(page))), page
    for block in BLOCKS:
        assert block.language in ("bash", "python", "text"), block
        if block.language == "text":
            assert not any(line.startswith(COMMANDS) for line in block.code.splitlines()), block
        if block.comment.startswith("not run:"):
            assert len(block.comment.split()) > 3, f"{block}: a reason"
        elif block.comment:
            old, arrow, _ = block.change.partition(" → ")
            assert block.change, f"{block}: a comment is `test: …` or `not run: …`"
            assert (old if arrow else f"setr-hf {old.split()[0]} ") in block.code, f"{block} has nothing to change"


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """A folder to copy for each page, the Hub, and what variables and address blocks run with."""
    folder, root, home = (tmp_path_factory.mktemp(name) for name in ("docs", "hub", "home"))
    write_docs_folder(folder, root)
    programs = home / "bin"
    programs.mkdir()
    address = str(home / "jobs")
    (programs / "setr-hf").write_text(
        f'#!/bin/sh\nexec "{sys.executable}" -S "{HELPERS}/forked_jobs.py" run "{address}" "$@"\n'
    )
    (programs / "setr-hf").chmod(0o755)
    with running_hub(root) as hub:
        variables = {
            "PATH": os.pathsep.join([str(programs), os.path.dirname(sys.executable), os.environ["PATH"]]),
            "HF_ENDPOINT": hub.address, "HF_TOKEN": TOKEN, "HF_HOME": str(home / "cache"),
            "HF_HUB_DISABLE_XET": "1", "HF_HUB_DISABLE_TELEMETRY": "1", "HF_HUB_OFFLINE": "0",
            "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1", "TRACKIO_DIR": str(home / "trackio"),
        }  # fmt: skip
        with forking_process(address, variables):
            yield folder, hub, variables, address


@pytest.fixture
def folder(world, tmp_path):
    """A copy of its own, with a Hub that holds what it did in the beginning."""
    template, hub, *_ = world
    shutil.copytree(template, tmp_path / "folder", symlinks=True)
    hub.repositories.clear()
    hub.repositories["model", PUBLISHED] = published(tmp_path / "folder/setr-mla-ade20k")
    return tmp_path / "folder"


def run(block, folder, world):
    *_, variables, address = world
    environment = {**os.environ, **variables, "SETR_HF_MORE_OPTIONS": json.dumps(block.more_options)}
    if block.language == "bash":
        command = ["bash", "-euo", "pipefail", "-c", block.changed_code]
    else:
        code = "import sys, forked_jobs; sys.exit(forked_jobs.run_in_fork(sys.argv[1], [], sys.argv[2]))"
        environment["PYTHONPATH"] = os.pathsep.join([str(HELPERS), os.environ.get("PYTHONPATH", "")])
        command = [sys.executable, "-S", "-c", code, address, block.changed_code]
    result = subprocess.run(command, capture_output=True, text=True, cwd=folder, env=environment)
    assert result.returncode == 0, f"{block}\n{result.stdout[-3000:]}\n{result.stderr[-3000:]}"


@pytest.mark.slow
@pytest.mark.parametrize("page", [page for page in PAGES if any(b.is_run for b in blocks_of(page))], ids=name_of)
def test_the_blocks_of_a_page_run(page, folder, world):
    blocks = [block for block in blocks_of(page) if block.is_run]
    for output in re.findall(r"--output-dir (\S+)", "".join(block.code for block in blocks)):
        shutil.rmtree(folder / output, ignore_errors=True)  # What a page trains is not there before.
    for block in blocks:
        run(block, folder, world)


def test_the_stock_trainer_example_fine_tunes_on_a_users_folder(folder, world):
    (block,) = [block for block in BLOCKS if "trainer = Trainer(" in block.code]
    assert len(block.code.strip().splitlines()) <= 30
    run(block, folder, world)
    segmenter = pipeline("image-segmentation", model=str(folder / "outputs/stock"))
    assert segmenter.model.config.label2id == {name: index for index, name in enumerate(CLASSES)}
    labels = {segment["label"] for segment in segmenter(str(next((folder / "mine/images/val").iterdir())))}
    assert labels <= set(CLASSES)


def anchors_of(page):
    """The anchors of a page's headings, which have no two alike, and of the jobs that are listed when it is built."""
    text = re.sub(r"^```.*?^```$", "", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    headings = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
    anchors = {re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-") for heading in headings}
    return anchors | (set(find_scripts()) if page.name == "jobs.md" else set())


@pytest.mark.parametrize("page", LINKED, ids=name_of)
def test_links_lead_somewhere(page):
    text = re.sub(r"^```.*?^```$", "", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    for link in LINK.finditer(text):
        target = (page.parent / link["path"]).resolve() if link["path"] else page
        assert target.exists(), f"{page}: {link[0]}"
        assert not link["anchor"] or link["anchor"] in anchors_of(target), f"{page}: {link[0]}"


def leaves(nav):
    for entry in nav:
        for value in entry.values():
            yield from [value] if isinstance(value, str) else leaves(value)


def test_every_page_of_the_docs_is_in_the_navigation():
    nav = yaml.safe_load((ROOT / "mkdocs.yml").read_text())["nav"]
    pages = [*PAGES[1:], *(ROOT / "docs").rglob("*.ipynb")]
    names = [page.relative_to(ROOT / "docs").with_suffix(".md").as_posix() for page in pages]
    assert sorted(leaves(nav)) == sorted(names)
