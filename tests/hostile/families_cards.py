"""Model cards that others wrote, and names of any origin where they are written."""

import csv
import io
import re

import yaml
from hostile import Attempt, family
from huggingface_hub import EvalResult, ModelCard
from mutations import TEXTS, any_value, as_json, nested, with_changes, with_damage

from setr_hf.cards.results import update_card
from setr_hf.errors import SetrError
from setr_hf.files import path_inside
from setr_hf.text import csv_cell, markdown_text, one_line, printable


METRIC = {"type": "mean_iou", "value": 48.6, "name": "mean IoU (%), single scale"}
RESULT = {"task": {"type": "image-segmentation"}, "dataset": {"type": "ade20k", "name": "ADE20K"}, "metrics": [METRIC]}
METADATA = {
    "library_name": "transformers",
    "license": "apache-2.0",
    "tags": ["setr", "vision"],
    "datasets": ["merve/scene_parse_150"],
    "model-index": [{"name": "setr", "results": [RESULT]}],
}
NEW = EvalResult(
    task_type="image-segmentation",
    dataset_type="mine",
    dataset_name="mine",
    metric_type="mean_iou",
    metric_name="mean IoU (%), single scale",
    metric_value=12.5,
)
BODY = "\n# SETR\n\n---\n\nThe text stays: `a | b`.\n"


@family(count=1_000)
def cards(random, folder):
    path = folder / "README.md"
    kind = random.randrange(7)
    header = yaml.safe_dump(METADATA).encode()
    if kind <= 2:
        header = as_json(with_changes(random, METADATA))  # JSON is YAML.
    elif kind == 3:
        header = as_json(any_value(random))
    elif kind == 4:
        header = nested(random, *random.choice([(b"[", b"]"), (b"{a: ", b"}")]))[:20_000]
    data = b"---\n" + header + b"\n---\n" + BODY.encode()
    if kind == 5:
        data = with_damage(random, data)
    elif kind == 6:
        data = random.choice(
            [b"", b"---\n", b"---\n---\n", b"# no metadata\n", b"x" * 5 * 2**20, b"\r\n".join([b"---"] * 9)]
        )
    path.write_bytes(data)

    def run():
        try:
            update_card(str(folder), [NEW])
        except SetrError:
            assert path.read_bytes() == data
            raise
        return ModelCard.load(path)

    def check(card):
        """The new result is there, and the text is as it was."""
        assert any(result.metric_value == 12.5 for result in card.data.eval_results)
        if BODY.encode() in data:
            assert BODY in path.read_text(encoding="utf-8")

    return Attempt(f"{data[:300]!r}", run, check)


CHARACTERS = 'ab/\\.:*?"<>| =+-@|`*_[]()#!~&;\x00\x07\x1b\r\n\t\x9b\u202e\u2028\u200b\ud800天空🌲é'


@family(count=1_500)
def names(random, folder):
    """Names as a terminal, a spreadsheet, Markdown and a file system get them."""
    name = "".join(random.choice(CHARACTERS) for _ in range(random.choice([1, 3, 8, 30, 400])))
    name = random.choice([name, random.choice(TEXTS), f"../{name}", f"/{name}", f"{random.choice(TEXTS)}{name}"])

    def run():
        shown = printable(name)
        assert re.fullmatch(r"[^\x00-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\u2028\u2029\ud800-\udfff]*", shown)
        assert len(one_line(name).splitlines()) <= 1
        file = io.StringIO()
        csv.writer(file).writerow([csv_cell(name)])
        (cell,) = next(csv.reader(io.StringIO(file.getvalue())))
        assert not cell.lstrip(" ").startswith(("=", "+", "-", "@"))
        assert not re.search(r"(?<!\\)[|<>`]", markdown_text(name).replace("\\\\", ""))
        path = path_inside(folder, name, ".png")
        assert path.resolve().is_relative_to(folder.resolve()) and path.suffix == ".png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()

    return Attempt(repr(name), run)
