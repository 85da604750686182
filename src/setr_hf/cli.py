"""What the jobs share: how options are parsed and listed, and how a mistake is reported."""

import argparse
import errno
import re
import shutil
import sys
from collections.abc import Callable, Collection, Iterable, Sequence
from enum import Enum
from pathlib import Path
from typing import Any, NoReturn

import torch
from huggingface_hub import errors as hub
from transformers import HfArgumentParser

from setr_hf_ending import CLEAN_UPS, IS_LAUNCHED, print_last_line

from .errors import SetrError
from .files import remove_unfinished
from .text import one_line


def positive(text: str) -> int:
    """The type of options that count something."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"must be a whole number of at least 1, got {text!r}")
    return int(text)


def usable_device(name: str) -> torch.device:
    """The type of options that name a device, such as "cpu", "cuda:1" or "mps"; it must be there."""
    try:
        torch.zeros(1, device=name).item()
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = one_line(error, 200)
        raise argparse.ArgumentTypeError(f"{name!r} cannot be used: {reason}") from None
    return torch.device(name)


def choices_of(action: argparse.Action) -> str:
    return ", ".join(map(str, action.choices or ()))


class HelpFormatter(argparse.HelpFormatter):
    """Option, metavar and help on one line where they fit; of the usage, what must be passed."""

    METAVARS = {int: "N", positive: "N", float: "X", Path: "PATH"}
    LONGEST_CHOICES = 32

    def __init__(self, prog: str, **options: Any):
        super().__init__(prog, max_help_position=38, width=shutil.get_terminal_size((100, 24)).columns, **options)

    def add_usage(
        self, usage: Any, actions: Iterable[argparse.Action], groups: Any, prefix: str | None = None
    ) -> None:
        shown = [action for action in actions if action.required]
        if prefix is None:  # An empty prefix asks for the beginning of a subcommand's usage.
            shown.append(argparse.Action([], "options", metavar="[options]"))
        super().add_usage(usage, shown, [], prefix)

    def _get_default_metavar_for_optional(self, action: argparse.Action) -> str:
        return self.METAVARS.get(action.type, "NAME")

    def _metavar_formatter(self, action: argparse.Action, default_metavar: str) -> Callable[[int], tuple[str, ...]]:
        if action.metavar is None and len(choices_of(action)) > self.LONGEST_CHOICES:
            return lambda size: (default_metavar,) * size
        return super()._metavar_formatter(action, default_metavar)

    def _format_args(self, action: argparse.Action, default_metavar: str) -> str:
        if action.option_strings and action.nargs == argparse.OPTIONAL:
            return ""  # A switch; that it takes a value as well is for files and launchers.
        if action.nargs == argparse.ONE_OR_MORE:
            return f"{self._metavar_formatter(action, default_metavar)(1)[0]} …"
        return super()._format_args(action, default_metavar)

    def _get_help_string(self, action: argparse.Action) -> str:
        text, default = action.help or "", action.default
        if action.metavar is None and len(choices_of(action)) > self.LONGEST_CHOICES:
            text += f"; one of {choices_of(action)}"
        if isinstance(default, Enum):
            default = default.value
        if default is None or isinstance(default, bool) or default in ("", argparse.SUPPRESS):
            return text
        shown = " ".join(map(str, default)) if isinstance(default, (list, tuple)) else str(default)
        return f"{text} (default: {shown.replace('%', '%%')})"


class HelpAll(argparse.Action):
    """`--help-all`: as `--help`, with the options that it leaves out."""

    def __call__(self, parser: argparse.ArgumentParser, *_: Any) -> None:
        for action, text in self.const.items():
            action.help = text
        parser.print_help()
        parser.exit()


class JobParser(HfArgumentParser):
    """The parser of a job's command line. Options come from dataclasses, as with `HfArgumentParser`, and from
    `add_argument`. Each is listed once, with dashes (`--max-steps`), and accepted with underscores as well
    (`--max_steps`), as users of `TrainingArguments` type it; abbreviations are not.

    A dataclass's options are listed under its `_argument_group_name`; a job with several groups has several
    dataclasses. `parse_args` returns all options in one namespace, which `parse_dict(vars(namespace))` turns into the
    dataclasses.

    Args:
        dataclass_types (a dataclass or a sequence of them, *optional*): Where options are declared.
        hidden (`Collection[str]`, *optional*): Fields that `--help` leaves out and `--help-all` lists.
        **options: Of `argparse.ArgumentParser`.

    Example:

    ```python
    >>> from dataclasses import dataclass, field
    >>> from setr_hf.cli import JobParser

    >>> @dataclass
    ... class Sizes:
    ...     _argument_group_name = "sizes, in pixels"
    ...     crop_size: int = field(default=512, metadata={"help": "side of a training crop"})

    >>> parser = JobParser(Sizes, prog="job", description="Does a thing.")
    >>> options = parser.parse_args(["--crop_size", "480"])
    >>> parser.parse_dict(vars(options))
    (Sizes(crop_size=480),)
    ```
    """

    def __init__(self, dataclass_types: type | Sequence[type] = (), hidden: Collection[str] = (), **options: Any):
        options = {"formatter_class": HelpFormatter, "allow_abbrev": False, **options}
        super().__init__(dataclass_types, **options)
        for action in self._actions:
            # Both spellings are accepted by now; messages and help show one.
            action.option_strings = [name for name in action.option_strings if "_" not in name]
        details = {action: action.help for action in self._actions if action.dest in hidden}
        for action in details:
            action.help = argparse.SUPPRESS
        if details:
            self.add_argument(
                "--help-all", action=HelpAll, nargs=0, const=details, dest=argparse.SUPPRESS,
                help="list all options, with Transformers' TrainingArguments",
            )  # fmt: skip

    def parse_known_args(
        self, args: Sequence[str] | None = None, namespace: Any = None
    ) -> tuple[argparse.Namespace, list[str]]:
        arguments = list(sys.argv[1:] if args is None else args)
        end = arguments.index("--") if "--" in arguments else len(arguments)
        for index in range(end):
            arguments[index] = re.sub(r"^--[^=]+", lambda name: name[0].replace("_", "-"), arguments[index])
        return super().parse_known_args(arguments, namespace)

    def parse_dict(self, args: dict[str, Any], allow_extra_keys: bool = False) -> tuple[Any, ...]:
        """The dataclasses of these values. Raises [`SetrError`] if one refuses its values."""
        try:
            return super().parse_dict(args, allow_extra_keys)
        except ValueError as error:
            raise SetrError(str(error)) from error

    def error(self, message: str) -> NoReturn:
        self.print_usage(sys.stderr)
        print(f"error: {message}", file=sys.stderr)
        raise SystemExit(2)


# What the Hub says of a repository that is missing or closed to this user. Transformers raises its own error from it.
MISSING = (hub.RepositoryNotFoundError, hub.RevisionNotFoundError, hub.LocalEntryNotFoundError)
HUB_ERRORS = (*MISSING, hub.HFValidationError, hub.OfflineModeIsEnabled)
# A full or write-protected disk, files that belong to somebody else, and names that no file can have.
SYSTEM_ERRORS = (errno.EACCES, errno.EDQUOT, errno.ENAMETOOLONG, errno.ENOSPC, errno.EPERM, errno.EROFS)


def is_users(error: BaseException | None) -> bool:
    """Whether the user can mend an error, by other options or by access to a file, a disk or a repository."""
    if isinstance(error, hub.HfHubHTTPError) and error.response.status_code in (401, 403):
        return True
    if isinstance(error, (SetrError, *HUB_ERRORS)):
        return True
    return isinstance(error, OSError) and (error.errno in SYSTEM_ERRORS or is_users(error.__cause__))


def message_of(error: Exception) -> str:
    """What an error says, in one line. One of a data loader's worker has that worker's whole traceback in it."""
    text = str(error)
    if text.startswith("Caught ") and "Traceback" in text:
        text = text.rpartition(f"{type(error).__name__}: ")[2]
    return " ".join(text.split())


def run_job(job: Callable[[], int]) -> int:
    """Runs a job's `main`, and returns its exit status: 2 after a mistake of the user, which is reported in one line.
    Any other exception is a bug and keeps its traceback.
    """
    if remove_unfinished not in CLEAN_UPS:
        CLEAN_UPS.append(remove_unfinished)
    try:
        return job()
    except Exception as error:
        if is_users(error):
            print_last_line(f"error: {message_of(error)}")
            return 2
        if IS_LAUNCHED:  # What the other processes say is only what followed from it.
            print_last_line(f"error: {type(error).__name__}: {message_of(error)}")
        raise
