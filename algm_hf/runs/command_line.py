# Copyright 2026 The algm-hf authors.
# SPDX-License-Identifier: Apache-2.0
"""Arguments from a YAML or JSON file and the command line; a command line without its secrets."""

from __future__ import annotations

import dataclasses
import difflib
import json
import re
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml
from transformers import HfArgumentParser

from ..refusals import require


CONFIG_SUFFIXES = (".json", ".yaml", ".yml")


class OneLineParser(HfArgumentParser):
    """[`HfArgumentParser`] that raises a `ValueError` where argparse prints its whole usage and exits."""

    def error(self, message: str) -> None:
        raise ValueError(message)


def read_config(path: str | Path) -> dict[str, Any]:
    """Reads the arguments in a YAML or JSON file.

    Args:
        path (`str` or `Path`): A file that ends in `.yaml`, `.yml` or `.json` and holds one mapping.

    Returns:
        `dict[str, Any]`: argument names to values as they stand there.

    Raises:
        `ValueError`: If the file is missing, no YAML or JSON, or holds something else than a mapping.
    """
    try:
        text = Path(path).read_text(encoding="utf-8")
        config = json.loads(text) if str(path).endswith(".json") else yaml.safe_load(text)
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise ValueError(f"{path}={str(error)!r}: expected YAML or JSON") from error
    is_mapping = isinstance(config, dict) and all(isinstance(key, str) for key in config)
    require(is_mapping, str(path), type(config).__name__, "a mapping of argument names to values")
    return config


def _command_line_of(path: str, parser: OneLineParser) -> list[str]:
    """The arguments of a file as they would stand on a command line, so that both go through the same checks."""
    actions = {action.dest: action for action in parser._actions}
    tokens = []
    for name, value in read_config(path).items():
        if name not in actions:
            close = difflib.get_close_matches(name, actions, n=1)
            hint = f"; did you mean {close[0]!r}?" if close else "; --help lists them"
            require(False, f"{path}: argument", name, f"the name of one{hint}")
        if value is None or value == []:
            continue  # unset
        if isinstance(value, bool):
            value = str(value).lower()
        elif isinstance(value, list) and actions[name].nargs != "+":
            value = ",".join(value) if all(isinstance(v, str) for v in value) else json.dumps(value)
        elif isinstance(value, dict):
            value = json.dumps(value)
        tokens += [f"--{name}", *map(str, value)] if isinstance(value, list) else [f"--{name}={value}"]
    return tokens


def redacted(argv: Sequence[str]) -> list[str]:
    """A command line without its secrets.

    Args:
        argv (`Sequence[str]`)

    Returns:
        `list[str]`: the values of `--hub_token`, `--push_to_hub_token` and every other `--*_token` (or `-token`)
        replaced by the name of the option, such as `<HUB_TOKEN>`.
    """
    tokens: list[str] = []
    hidden = None
    for token in argv:
        if hidden is not None and not token.startswith("--"):
            tokens.append(hidden)
            hidden = None
            continue
        found = re.match(r"--((?:[\w-]*[_-])?token)(=|$)", token)
        hidden = f"<{found[1].replace('-', '_').upper()}>" if found else None
        tokens.append(token[: found.end()] + hidden if found and found[2] else token)
        hidden = None if found and found[2] else hidden
    return tokens


def resume_command(argv: Sequence[str]) -> str:
    """The command that goes on with a training.

    Args:
        argv (`Sequence[str]`): Of the training, with the name of the script.

    Returns:
        `str`: for a shell, without secrets.
    """
    kept, skip = [], False
    for token in redacted(argv):
        if not skip and not token.startswith("--resume_from_checkpoint"):
            kept.append(token)
        skip = token == "--resume_from_checkpoint"
    return shlex.join([Path(sys.executable).name, *kept, "--resume_from_checkpoint", "last"])


def parse_arguments(
    argument_types: Sequence[type], argv: Sequence[str], description: str | None = None
) -> tuple[list[Any], set[str]]:
    """Fills dataclasses from `[CONFIG.yaml|CONFIG.json] [--name value ...]`; the command line wins over the file.

    Args:
        argument_types (`Sequence[type]`): Dataclasses whose field names do not overlap.
        argv (`Sequence[str]`): The command line without the name of the program.
        description (`str`, *optional*): What `--help` says above the arguments.

    Returns:
        `tuple[list, set[str]]`: one instance of each dataclass, and the names that file or command line have set.

    Raises:
        `ValueError`: For an unknown name or a value that does not fit, naming it.
    """
    usage = "%(prog)s [CONFIG.yaml or CONFIG.json] [--name value ...]"
    parser = OneLineParser(argument_types, description=description, usage=usage, allow_abbrev=False)
    argv = list(argv)
    if argv and argv[0].endswith(CONFIG_SUFFIXES) and not argv[0].startswith("-"):
        argv = _command_line_of(argv[0], parser) + argv[1:]
    options = {option: action.dest for action in parser._actions for option in action.option_strings}
    given = {options[token.split("=", 1)[0]] for token in argv if token.split("=", 1)[0] in options}
    *instances, rest = parser.parse_args_into_dataclasses(
        args=argv, look_for_args_file=False, return_remaining_strings=True
    )
    if rest:
        close = difflib.get_close_matches(rest[0].split("=", 1)[0], options, n=1)
        hint = f"; did you mean {close[0]}?" if close else "; --help lists them"
        require(False, "argument", rest[0], f"the name of one{hint}")
    return instances, given


def field_names(argument_type: type) -> set[str]:
    """The names of a dataclass's fields."""
    return {entry.name for entry in dataclasses.fields(argument_type)}


__all__ = ["field_names", "parse_arguments", "read_config", "redacted", "resume_command"]
