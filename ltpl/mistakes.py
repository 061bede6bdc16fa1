"""One line for a mistake on the command line: what was given, and what was probably meant."""

from __future__ import annotations

import difflib
import errno
import inspect
import itertools
import re
import sys
import sysconfig
import traceback
from argparse import ArgumentError
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ltpl.report.console import plain
from ltpl.rounds.ranks import leads

if TYPE_CHECKING:
    from pytorch_lightning.cli import LightningArgumentParser as ParserOfEither
else:
    ParserOfEither = object

PACKAGE = Path(__file__).parent
DISK = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EIO)  # it takes no file
PLACES = (FileExistsError, NotADirectoryError, IsADirectoryError, PermissionError)
ASIDE = (  # what the parser tried besides
    "Expected a <class 'NoneType'>",
    "Given value",
    "Does not validate",
    "Subtypes:",
    "Errors:",
    "Parser key",
    "Problem with given class_path",
    "Not a valid subclass",
)


class OneLine(ParserOfEither):
    """A parser that answers a mistake with one line."""

    command: str
    given: list[str]

    def error(self, message: str, ex: Exception | None = None) -> Any:
        """Print what is wrong and what was probably meant; exit with code 2."""
        parser = getattr(ex, "subcommand_parser", None) or self
        prog = parser.prog.replace(" [options]", "")
        if self.command and self.command not in prog.split():
            prog = f"{prog} {self.command}"
        line = naming(explained(message, parser), self.given)
        if leads():
            print(f"{prog}: error: {plain(line)}", file=sys.stderr)
        self.exit(2)


def is_input(error: Exception) -> bool:
    """Whether an error says that an option is wrong, rather than that a program failed.

    Those are what our own code raises as `ValueError`, what Lightning calls a misconfiguration or
    raises while the Trainer is made, and places where no file can be, as long as no code of a
    project stands between: its errors keep their traceback.
    """
    stack = traceback.extract_tb(error.__traceback__)
    frames = [Path(f.filename) for f in stack]
    if any(_is_theirs(frame) for frame in frames):
        return False
    told = frames[-1].is_relative_to(PACKAGE) or frames[-1].parent.name == "jsonargparse"
    wrong = isinstance(error, (ValueError, FileNotFoundError, ArgumentError)) and told
    if any(f.name == "_instantiate_trainer" for f in stack):
        wrong = isinstance(error, (ValueError, TypeError))  # it has nothing but options yet
    return wrong or isinstance(error, PLACES) or type(error).__name__ == "MisconfigurationException"


def is_of_the_disk(error: Exception) -> bool:
    """Whether an error says that the disk is full, failing or read-only, rather than a program."""
    frames = traceback.extract_tb(error.__traceback__)
    ours = not any(_is_theirs(Path(f.filename)) for f in frames)
    return isinstance(error, OSError) and error.errno in DISK and ours


def told(error: Exception) -> str:
    """Return one line for an error that is nobody's mistake."""
    if not isinstance(error, OSError):
        return " ".join(str(error).split())
    where = f"{error.filename} cannot be written" if error.filename else "a file cannot be written"
    return f"{where}: {error.strerror}; what is finished is kept, and the same command goes on"


def _is_theirs(file: Path) -> bool:
    """Whether code is neither ours nor of a library."""
    installed = "site-packages" in file.parts or file.is_relative_to(sysconfig.get_path("stdlib"))
    return file.is_file() and not installed and not file.is_relative_to(PACKAGE)


def explained(message: str, parser: Any) -> str:
    """Return one line for what `jsonargparse` says, with a did-you-mean.

    Args:
        message: Its message, often many lines.
        parser: The parser of the command.
    """
    options = [text for action in parser._actions for text in action.option_strings]
    for pattern, candidates in (
        (r"unrecognized arguments: (.*)", lambda _: options),
        (r"invalid choice: '(.*?)'", lambda found: re.findall(r"'([\w-]+)'", found)[1:]),
        (r"File does not exist: '?(.*?)'?$", _files_beside),
        (r"Expected a dot import path string: (\S+)", lambda _: _classes()),
        (r"Group '\S+' does not accept option '(\S+?)'", lambda _: _last_parts(options)),
        (r"Option '(\S+?)' is not accepted", lambda found: _parameters(found, options)),
        (r"'\w+' does not accept option '(\S+?)'", lambda _: _whole(options)),
    ):
        match = re.search(pattern, message, re.MULTILINE)
        if match:
            given = match[1].split("=")[0].split()[0] if match[1] else ""
            return _with_guess(_told(pattern, match, message), given, candidates(message))
    if "does not correspond to a subclass of LightningModule" in message:
        message += "\nFor a module of lightning.pytorch, write LotteryCLI(MyModule, MyData)"
    line = " ".join(_telling(message).split())
    if "arguments are required" in line:  # jsonargparse names them as in a config
        line = re.sub(r"(?<=[ ,])([a-z]+)\.(?=(\w+))", lambda m: _dashes(parser, m[1], m[2]), line)
    return line


def naming(line: str, given: Iterable[str]) -> str:
    """Return a line with the names of the options given, if it names none of them.

    Args:
        line: What is wrong. If it names a path that was given, that option alone is meant; if it
            begins with one that no option has, none is.
        given: The arguments.
    """
    words = [*given, ""]
    if any(line.startswith(f"{word} ") for word in words[1:] if word and word[0] != "-"):
        return line
    values = {
        word.partition("=")[0]: word.partition("=")[2] or after
        for word, after in itertools.pairwise(words)
        if word.startswith("--")
    }
    if not values or any(name.lstrip("-").rpartition(".")[2] in line for name in values):
        return line
    meant = [name for name, value in values.items() if "/" in value and value in line]
    return f"{line} (given were {', '.join(meant or values)})"


def _told(pattern: str, match: re.Match[str], message: str) -> str:
    key = re.search(r'(?:Parser )?key "([^"]+)"', message)
    where = f"{key[1]}: " if key else ""
    if "dot import" in pattern:
        return f"{where}there is no class {match[1]!r}; give its name, or package.module.Class"
    return f"{where}{match[0]}" if where and where[:-2] not in match[0] else match[0]


def _dashes(parser: Any, command: str, name: str) -> str:
    """Return what stands before the name of an option; before that of a place, nothing."""
    action = getattr(parser, "_subcommands_action", None)
    actions = action.choices[command]._actions if action and command in action.choices else ()
    return "" if any(x.dest == name and not x.option_strings for x in actions) else "--"


def _with_guess(told: str, given: str, candidates: Iterable[str]) -> str:
    names = list(dict.fromkeys(candidates))
    close = difflib.get_close_matches(given, names, n=1, cutoff=0.6)
    return f"{told}; did you mean {close[0]!r}?" if close and close[0] != given else told


def _files_beside(message: str) -> list[str]:
    path = Path(re.search(r"File does not exist: '?(.*?)'?$", message, re.MULTILINE)[1])  # type: ignore[index]
    return [str(p) for p in path.parent.glob("*")] if path.parent.is_dir() else []


def _classes() -> list[str]:
    """Return the short names by which classes may be given."""
    from pytorch_lightning import Callback, LightningDataModule, LightningModule
    from torch import nn
    from torch.optim import Optimizer

    found: list[type] = []
    waiting: list[type] = [Callback, LightningDataModule, LightningModule, Optimizer, nn.Module]
    while waiting:
        below: list[type] = waiting.pop().__subclasses__()
        found += below
        waiting += below
    return [kind.__name__ for kind in found]


def _last_parts(options: Iterable[str]) -> list[str]:
    return [option.lstrip("-").rpartition(".")[2] for option in options]


def _whole(options: Iterable[str]) -> list[str]:
    return [option.lstrip("-") for option in options]


def _parameters(message: str, options: Iterable[str]) -> list[str]:
    """Return the parameters of the class that a message speaks of, else all options."""
    paths = re.findall(r"class_path '?([\w.]+)", message)
    for path in paths:
        module, _, name = path.rpartition(".")
        kind = getattr(sys.modules.get(module), name, None)  # a file may have put it into the text
        if kind is not None:
            return list(inspect.signature(kind).parameters)
    return _last_parts(options)


def _telling(message: str) -> str:
    """Return the option and the innermost reason, without what the parser tried besides."""
    keys = re.findall(r'[Kk]ey "([^"]+)"', message)
    nested = re.search(r"NestedArg\(key='(\w+)'", message)
    key = ".".join(dict.fromkeys([*keys[:1], *([nested[1]] if nested else [])]))
    lines = [line.strip(" -") for line in message.splitlines()]
    said = [line for line in lines if line and not line.startswith(ASIDE)]
    given = re.search(r"Given value: (?!Namespace|NestedArg)(.{1,60})", message)
    reason = re.sub(r"<class '([\w.]+)'>", r"\1", "; ".join(dict.fromkeys(said)) or lines[0])
    reason = reason.replace("; Expected a ", " or ").replace("typing.Literal", "one of ")
    reason += f"; given {given[1]!r}" if given and given[1] not in reason else ""
    return f"{key}: {reason}" if key and key not in reason else reason
