"""Training runs as files: the published ones of SETR by name, our own small ones, and a user's own.

A name is `setr-{decoder}-{encoder}-{data set}-{what the published runs on it vary}`: the batch on ADE20K and Pascal
Context (`b8`, `b16`), the iterations on Cityscapes (`40k`, `80k`). `mmseg-` in front marks mmsegmentation's run. The
folder `recipes` holds a file for each data set.
"""

import difflib
from collections.abc import Collection
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import NoneType
from typing import Any

import yaml

from ..data.public_datasets import CLASS_NAMES
from ..errors import SetrError
from ..files import first_repeated, read_text


FOLDER = Path(__file__).with_name("recipes")
SUFFIXES = (".yaml", ".yml")
MOST_VALUES = 10_000
# YAML is read slowly, a megabyte in some ten seconds.
MOST_BYTES = 2**18


@dataclass(frozen=True)
class Recipe:
    """A training run.

    Args:
        name (`str`): See the module's docstring; of a user's file, its name without the suffix.
        origin (`str`, *optional*): Whose run it is: "original" (the CVPR 2021 code), "mmsegmentation" (1.2.2, whose
            decoders start from other random weights), "setr-hf", or anything else.
        classes (`str`, *optional*): A key of [`CLASS_NAMES`], whose classes the data must have; any data if `None`.
        published (`dict[str, float]`): Mean IoU in percent, 0 to 100: `single_scale`, and `multi_scale` with mirror
            images, as far as they were published.
        options (`dict[str, Any]`): Values of the train job's options by name. Sizes are in pixels; `config` holds
            fields of [`SetrConfig`].

    Example:

    ```python
    >>> from setr_hf.training.recipes import find_recipe

    >>> recipe = find_recipe("setr-mla-large-ade20k-b16")
    >>> recipe.origin, recipe.classes, recipe.published
    ('original', 'ade20k', {'single_scale': 48.64, 'multi_scale': 50.28})
    ```
    """

    name: str
    origin: str | None
    classes: str | None
    published: dict[str, float]
    options: dict[str, Any]

    @property
    def num_labels(self) -> int | None:
        """Number of classes; `None` where the data decides."""
        return len(CLASS_NAMES[self.classes]) if self.classes else None

    def to_yaml(self) -> str:
        """The recipe as a file that [`find_recipe`] reads."""
        facts = {"origin": self.origin, "classes": self.classes, "published": self.published}
        return yaml.safe_dump({**facts, **self.options}, sort_keys=False, default_flow_style=None, width=100)

    def check_options(self, known: Collection[str]) -> None:
        """Raises a [`SetrError`] for an option that is not one of `known`, with the closest one."""
        for name in self.options:
            if name not in known:
                names = [*known, "origin", "classes", "published"]
                close = difflib.get_close_matches(str(name), names, n=1, cutoff=0)[0]
                raise SetrError(f"recipe {self.name}: {name!r} is not an option of the train job, but {close!r} is")


def make_recipe(name: str, values: dict[str, Any]) -> Recipe:
    """The recipe that a file describes. Raises [`SetrError`] if `classes`, `published` or `config` is malformed."""
    options = dict(values)
    origin, classes, published = (options.pop(fact, None) for fact in ("origin", "classes", "published"))
    if classes is not None and classes not in list(CLASS_NAMES):
        raise SetrError(f"recipe {name}: classes must be null or one of {', '.join(CLASS_NAMES)}, got {classes!r}")
    if not isinstance(origin, (str, NoneType)):
        raise SetrError(f"recipe {name}: origin must be a text, got {origin!r}")
    for key, value in (("published", published), ("config", options.get("config"))):
        if value is not None and not isinstance(value, dict):
            raise SetrError(f"recipe {name}: {key} must be a mapping, got {value!r}")
    for key, score in (published or {}).items():
        if type(score) not in (int, float) or not 0 <= score <= 100:
            raise SetrError(f"recipe {name}: published {key} must be a mean IoU from 0 to 100, got {score!r}")
    return Recipe(name, origin, classes, published or {}, options)


class RecipeLoader(yaml.SafeLoader):
    """YAML without Python's tags. A key that occurs twice in a mapping is an error: the last would win silently."""

    def __init__(self, stream: str):
        super().__init__(stream)
        self.flattened: set[yaml.MappingNode] = set()

    def flatten_mapping(self, node: yaml.MappingNode) -> None:
        """Puts merged keys (`<<`) before the mapping's own, which override them."""
        if node not in self.flattened:
            self.flattened.add(node)
            keys = [key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode)]
            if (repeated := first_repeated(keys)) is not None:
                raise yaml.MarkedYAMLError(problem=f"{repeated!r} occurs twice", problem_mark=node.start_mark)
        super().flatten_mapping(node)
        if len(node.value) > MOST_VALUES:
            raise yaml.MarkedYAMLError(problem="it merges too many keys", problem_mark=node.start_mark)


def check_size(content: Any) -> None:
    """Raises `ValueError` if values hold themselves, repeat each other more often than can be written out, or are
    numbers that nothing could count.
    """
    level, count = [content], 0
    while level:
        count += len(level)
        if count > MOST_VALUES:
            raise ValueError(f"it holds more than {MOST_VALUES:,} values")
        if any(isinstance(value, int) and abs(value) >= 2**63 for value in level):
            raise ValueError("it holds a number of more than 64 bits")
        nested = [place for place in level if isinstance(place, (dict, list, tuple, set))]
        level = [value for place in nested for value in (place.values() if isinstance(place, dict) else place)]


def read_yaml(path: Path) -> dict[str, Any]:
    """The mapping in a file. Raises [`SetrError`] if it cannot be read or holds something else."""
    text = read_text(path, MOST_BYTES)
    try:
        content = yaml.load(text, Loader=RecipeLoader)
        check_size(content)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f" in line {mark.line + 1}" if mark else ""
        raise SetrError(f"{path} is not valid YAML{line}: {getattr(error, 'problem', None) or error}") from error
    except (ValueError, RecursionError, TypeError, AttributeError) as error:  # Of PyYAML, on numbers, dates and tags.
        raise SetrError(f"{path} is not a recipe: {error}") from error
    if not isinstance(content, dict) or not all(isinstance(name, str) for name in content):
        raise SetrError(f"{path} must hold a mapping of the train job's options to values")
    return content


@cache
def all_recipes() -> dict[str, Recipe]:
    """The recipes of this package by name."""
    return {
        name: make_recipe(name, values)
        for path in sorted(FOLDER.glob("*.yaml"))
        for name, values in read_yaml(path)["recipes"].items()
    }


def find_recipe(name: str) -> Recipe:
    """A recipe by its name, or by the path of a YAML file. [`SetrError`], with close names, if there is none."""
    if name.endswith(SUFFIXES):
        path = Path(name)
        return make_recipe(path.stem, read_yaml(path))
    recipes = all_recipes()
    if name in recipes:
        return recipes[name]
    close = difflib.get_close_matches(name.lower(), recipes, n=4)
    offer = f"did you mean {', '.join(close)}?" if close else f"there are {', '.join(recipes)}"
    raise SetrError(f"there is no recipe {name!r}: {offer}")
