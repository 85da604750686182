"""The package's docstrings in the form that mkdocstrings reads. Theirs is that of Transformers: types in backticks,
names of classes and functions in brackets.
"""

import re

import griffe


PARAMETER = re.compile(r"^(?P<start>\s+\**\w[\w, ]* )\((?P<type>.*?)\)(?=:(\s|$))", re.MULTILINE)
# What the signature says, too.
DEFAULT = re.compile(r"(, \*optional\*)?(, defaults to .*)?$")
RESULT = re.compile(r"^(?P<indent> +)\[?`(?P<type>[^`\n]+)`\]?(?=: )", re.MULTILINE)
# Of keyword arguments, which Transformers wants without a heading and without lines of their own.
KEYWORD = re.compile(r"(^|(?<=\.)\s+)(?P<name>\w+) \((?P<type>`\w+`), \*optional\*[^)]*\):")
NAME = re.compile(r"\[`~?(?P<name>[\w.]+)`\](?!\(|\[)")


class TransformersDocstrings(griffe.Extension):
    def on_object(self, *, obj: griffe.Object, **_: object) -> None:
        if obj.docstring is None or not obj.path.startswith("setr_hf"):
            return

        def plain_type(parameter: re.Match) -> str:
            text = DEFAULT.sub("", parameter["type"]) if obj.is_function else parameter["type"]
            return f"{parameter['start']}({text.replace('`', '').replace('*', '')})"

        text = PARAMETER.sub(plain_type, obj.docstring.value)
        text = RESULT.sub(r"\g<indent>\g<type>", text)
        text = re.sub(r"^Example:$", "Examples:", text, flags=re.MULTILINE)
        if obj.name.endswith("Kwargs"):
            text = KEYWORD.sub(r"\n- `\g<name>` (\g<type>):", text)
        obj.docstring.value = NAME.sub(r"`\g<name>`", text)
