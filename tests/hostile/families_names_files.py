"""Names files and recipes: JSON and YAML that people write by hand."""

import numpy as np
import yaml
from hostile import Attempt, family
from mutations import any_value, as_json, nested, with_changes, with_damage

from setr_hf.data.label_sets import IGNORED_LABEL, INVALID, LabelSet, read_names_file
from setr_hf.training.recipes import Recipe, find_recipe


NAMES = {"0": "sky", "1": "tree", "2": "road"}
PALETTE = [[70, 130, 180], [107, 142, 35], [128, 64, 128]]
VALID = [
    list(NAMES.values()),
    NAMES,
    {"id2label": NAMES},
    {"id2label": NAMES, "palette": PALETTE, "ignore_index": 7},
    {"id2label": NAMES, "palette": PALETTE, "reduce_labels": True},
    {"id2label": NAMES, "values": {"0": 0, "128": 1, "255": 2}, "ignore_index": 255},
]


def check_label_set(label_set: LabelSet) -> None:
    """Every class has a name of its own, a colour if there are colours, and pixel values that become it."""
    count = len(label_set.id2label)
    assert list(label_set.id2label) == list(range(count)) and count > 0
    assert all(isinstance(name, str) and name.strip() for name in label_set.names)
    assert len(set(label_set.names)) == count
    assert set(np.unique(label_set.lookup)) <= {*range(count), INVALID, IGNORED_LABEL}
    if label_set.palette is not None:
        assert np.array(label_set.palette).shape == (count, 3)
        assert all(type(value) is int and 0 <= value <= 255 for color in label_set.palette for value in color)


@family(count=1_500)
def names_files(random, folder):
    path = folder / "labels.json"
    content = random.choice(VALID)
    kind = random.randrange(6)
    if kind <= 2:
        data, what = as_json(with_changes(random, content)), "changed values"
    elif kind == 3:
        data, what = with_damage(random, as_json(content)), "damaged bytes"
    elif kind == 4:
        data, what = nested(random, *random.choice([(b"[", b"]"), (b'{"id2label":', b"}")])), "nested"
    else:
        data, what = as_json(any_value(random)), "any value"
    path.write_bytes(data)
    return Attempt(f"{what}: {data[:200]!r}", lambda: read_names_file(path), check_label_set)


RECIPE = {
    "origin": "setr-hf",
    "classes": "ade20k",
    "published": {"single_scale": 48.64},
    "decoder_type": "mla",
    "max_steps": 10,
    "learning_rate": 0.001,
    "config": {"num_hidden_layers": 2},
}
BOMBS = [
    b"a: &a [x, x]\n" + b"".join(b"%c: &%c [*%c, *%c, *%c, *%c]\n" % (c, c, *[c - 1] * 4) for c in range(98, 122)),
    b"a: &a [*a, *a]\n",
    b"a: &a {b: *a}\nconfig: *a\n",
    b"a: !!python/object/apply:os.system ['true']\n",
    b"a: !!python/name:os.system\n",
    b"config: !!binary aGVsbG8=\n",
    b"? [a, b]\n: c\n",
    b"? {a: b}\n: c\n",
    b"1: 2\nnull: 3\n",
    b"max_steps: 2001-02-30\n",
    b"max_steps: 1:1:1:1:1:1:1:1:1:1:1\n",
    b"<<: [1, 2]\n",
    b"<<: &x {<<: *x}\n",
    b"max_steps: 0x" + b"f" * 9_000 + b"\n",
    b"max_steps: " + b"9" * 9_000 + b"\n",
    b"--- {}\n--- {}\n",
    b"%YAML 9.9\n--- {}\n",
    b"%TAG ! tag:x,2000:\n--- !a {}\n",
]


def check_recipe(recipe: Recipe) -> None:
    assert all(isinstance(name, str) for name in recipe.options)
    recipe.to_yaml()


@family(count=1_000)
def recipes(random, folder):
    path = folder / "mine.yaml"
    kind = random.randrange(5)
    if kind == 0:
        data = random.choice(BOMBS)
    elif kind == 1:
        data = with_damage(random, yaml.safe_dump(RECIPE).encode())
    elif kind == 2:
        data = nested(random, *random.choice([(b"[", b"]"), (b"{a: ", b"}"), (b"- ", b"")]))[: 2 * 10**4]
    else:
        data = as_json(with_changes(random, RECIPE))  # JSON is YAML.
    path.write_bytes(data)
    return Attempt(f"{data[:200]!r}", lambda: find_recipe(str(path)), check_recipe)
