"""The ``lightning`` command: Lightning's own command line over any model, data module and callbacks.

Naming a class in a configuration is running it, so only what :data:`ALLOWED_IMPORTS` lists can be named, and
checkpoints are read as plain tensors. :data:`ALLOW_IMPORTS_VARIABLE` lists packages of one's own.
"""

from __future__ import annotations

import difflib
import os
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, NoReturn

import torch
import yaml
from jsonargparse import set_parsing_settings
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import LightningDataModule, LightningModule, Trainer
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI, SaveConfigCallback
from omegaconf.errors import OmegaConfBaseException
from typing_extensions import override

from mmretrieval.errors import UserError

ALLOW_IMPORTS_VARIABLE = "MMRETRIEVAL_ALLOW_IMPORTS"
"""Environment variable with more that a configuration may name, as in ``"mypackage.*,other.models"``."""

ALLOWED_IMPORTS: tuple[str, ...] = (
    "mmretrieval",
    "data_modules",
    "callbacks",
    "lightning.pytorch.callbacks",
    "lightning.pytorch.cli.ReduceLROnPlateau",
    "lightning.pytorch.loggers",
    "lightning.pytorch.plugins",
    "lightning.pytorch.profilers",
    "lightning.pytorch.strategies",
    "torch.optim",
    "transformers.optimization",
)
"""What a configuration may name, with all that is defined, not only imported, below it."""

DENIED_IMPORTS: tuple[str, ...] = (
    "*",
    "mmretrieval.cli",
    "mmretrieval.tools",  # functions that write wherever they are told to
    "lightning.pytorch.callbacks.LambdaCallback",  # calls functions that a configuration names
    "lightning.pytorch.callbacks.lambda_function",
    "lightning.pytorch.strategies.launchers",  # start processes
)
"""Exceptions from :data:`ALLOWED_IMPORTS`, and all the rest."""

Precision = Literal["highest", "high", "medium"]

_ADVICE = (
    f"A configuration may name classes of {', '.join(ALLOWED_IMPORTS)}. "
    f"To use your own code, list its packages: {ALLOW_IMPORTS_VARIABLE}='mypackage.*' lightning fit …"
)
_DENIED = re.compile(r"Importing '([\w.]+)' is not allowed, .*?set_parsing_settings to allow it\.+")
_UNKNOWN_OPTION = re.compile(r"(?:Option|accept option) '([^']+)'")
_SUSPECT = re.compile(
    _UNKNOWN_OPTION.pattern
    + r"""|Importing '([\w.]+)'|full_key: (\S+)|class_path '([^']+)'|Parser key "([^"]+)"|Got value: (\S+)"""
)
_NOISE = re.compile(
    r"Does not validate against any|Subtypes:|Errors:|Given value|Expected a <class 'NoneType'>"
    r"|Subclass types expect one of|a class path \(str\)|a dict with"
)
_SHORTER = (
    (re.compile(r"""Parser key "([^"]+)":|Problem with given class_path '([^']+)':"""), r"\1\2:"),
    (re.compile(r"Type \S.* expects a function or a callable class: "), ""),
    (re.compile(r"\.? Got value: Namespace\(.*"), ""),
    (_DENIED, rf"'\1' is not among the allowed imports. {_ADVICE}"),
)


def main(args: Sequence[str] | None = None) -> None:
    """Run ``lightning fit``, ``validate``, ``test`` or ``predict``.

    Args:
        args: The words after the command's name; those of this process if ``None``.

    Raises:
        SystemExit: With status 2 after a message on stderr for a configuration or data that cannot be used.
    """
    words = sys.argv[1:] if args is None else list(args)
    try:
        restrict_imports()
        RetrievalCLI(words)
    except Exception as error:
        cause = _users_mistake(error)
        if cause is None:
            raise
        print(f"lightning: {_explain(_message(cause), words)}", file=sys.stderr)
        raise SystemExit(2) from None


class RetrievalCLI(LightningCLI):
    """Lightning's command line in subclass mode: the configuration names the model and the data module.

    Relative paths in a configuration are relative to the working directory. ``${trainer.default_root_dir}``
    stands for that value of the final configuration, whichever file or argument sets it.

    Args:
        words: The words after the command's name.
        run: Whether to run the sub-command that ``words`` begin with; else they name none, and trainer, model
            and data module are only made.
    """

    def __init__(self, words: Sequence[str], *, run: bool = True) -> None:
        super().__init__(
            LightningModule,
            LightningDataModule,
            save_config_callback=SaveConfig,
            trainer_defaults={"default_root_dir": "outputs"},
            seed_everything_default=0,
            parser_kwargs={
                "prog": "lightning",
                "description": "Train and evaluate retrievers.",
                "parser_mode": "omegaconf+",  # the sub-commands take it over
            },
            parser_class=_Parser,
            subclass_mode_model=True,
            subclass_mode_data=True,
            args=list(words),
            run=run,
            auto_configure_optimizers=False,  # models take their optimizer as an argument
        )

    @staticmethod
    @override
    def subcommands() -> dict[str, set[str]]:
        """The sub-commands, and the arguments of Lightning's methods that configurations cannot set."""
        commands = LightningCLI.subcommands()
        return {name: {*skipped, "weights_only"} for name, skipped in commands.items()}

    @override
    def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:
        """Parse without Lightning's warning about a process that has arguments of its own."""
        for each in (parser, *getattr(self, "_subcommand_parsers", {}).values()):
            if isinstance(each, _Parser):
                each.words = args
        self.config = parser.parse_args(args)

    @override
    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Add what concerns the whole process."""
        parser.add_argument(
            "--float32_matmul_precision",
            type=Precision,
            default="highest",
            help="Precision of float32 matrix products: 'medium' and 'high' are faster and less exact.",
        )

    @override
    def before_instantiate_classes(self) -> None:
        """Set what must hold before anything is computed."""
        torch.set_float32_matmul_precision(self._get(self.config, "float32_matmul_precision"))

    @override
    def _prepare_subcommand_kwargs(self, subcommand: str) -> dict[str, Any]:
        # Else a configuration with a checkpoint from elsewhere could unpickle, so run, what that file says.
        return {**super()._prepare_subcommand_kwargs(subcommand), "weights_only": True}


class SaveConfig(SaveConfigCallback):
    """Writes the complete configuration into the trainer's ``default_root_dir``, over that of an older run.

    ``fit`` writes ``config.yaml``, another sub-command ``config_<sub-command>.yaml``; each can be run again.
    """

    @override
    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Write once, on the first rank."""
        if trainer.is_global_zero and not self.already_saved:
            self.save_config(trainer, pl_module, stage)
        self.already_saved = True

    @override
    def save_config(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Write the file completely or not at all."""
        run = str(trainer.state.fn.value) if trainer.state.fn else stage
        name = self.config_filename if run == "fit" else f"config_{run}.yaml"
        target = Path(trainer.default_root_dir, name)
        target.parent.mkdir(parents=True, exist_ok=True)
        staged = target.with_name(f".{target.name}.{os.getpid()}.partial")
        try:
            with staged.open("w", encoding="utf-8") as file:
                file.write(self.parser.dump(self.config, skip_none=False))
                file.flush()
                os.fsync(file.fileno())
            staged.replace(target)
        finally:
            staged.unlink(missing_ok=True)


class _Parser(LightningArgumentParser):
    """Takes option names only in full, and reports a mistake in a few lines."""

    words: Sequence[str] = ()

    def __init__(self, *args: Any, **kwargs: Any) -> None:  # noqa: ANN401 - argparse's many options
        super().__init__(*args, **{"allow_abbrev": False, "epilog": _ADVICE, **kwargs})

    @override
    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Print the message with what is known about its place, and exit with status 2."""
        message = _with_suggestion(message, getattr(ex, "subcommand_parser", None) or self)
        if not self.exit_on_error:  # an inner parser, whose message becomes part of the outer one's
            super().error(message, ex)
        print(f"lightning: {_explain(message, self.words)}", file=sys.stderr)
        raise SystemExit(2)


def restrict_imports() -> None:
    """Let configurations name what is allowed and nothing else."""
    entries = [entry.strip() for entry in os.environ.get(ALLOW_IMPORTS_VARIABLE, "").split(",")]
    own = [entry.removesuffix(".*") for entry in entries if entry]
    for entry in own:
        if not all(part.isidentifier() for part in entry.split(".")) or entry.startswith("jsonargparse"):
            raise UserError(
                f"{ALLOW_IMPORTS_VARIABLE} lists {entry!r}, which cannot be allowed; "
                "write package or module names separated by commas, as in 'mypackage.*,other.models'"
            )
    set_parsing_settings(
        import_path_denylist=list(DENIED_IMPORTS),
        import_path_allowlist=[*ALLOWED_IMPORTS, *own],
        instantiate_subclass_spec_in_any=False,  # an argument of type Any takes data, never an instance
        omegaconf_absolute_to_relative_paths=True,  # ${a.b} follows later overrides of a.b
        config_read_mode_fsspec_enabled=False,  # a configuration is a file here, not an address
    )


def _users_mistake(error: BaseException | None) -> BaseException | None:
    """The user's mistake that an error says or was caused by, if any."""
    while error is not None:
        if isinstance(error, UserError | MisconfigurationException | OmegaConfBaseException):
            return error
        if type(error).__name__ == "UnpicklingError":  # torch advises to lift the protection
            return UserError(
                "the checkpoint cannot be read as plain tensors: it is damaged, or it would run code. "
                "Resume from a checkpoint that this program wrote."
            )
        error = error.__cause__
    return None


def _message(error: BaseException) -> str:
    """What an error says; one from a data-loading worker ends so, after the worker's traceback."""
    _, quoted, message = str(error).rpartition(f".{type(error).__name__}: ")
    return message.strip() if quoted and str(error).startswith("Caught ") else str(error)


def _with_suggestion(message: str, parser: LightningArgumentParser) -> str:
    """Add the option that was probably meant to a message about one that does not exist."""
    unknown = _UNKNOWN_OPTION.search(message)
    if unknown is None or "did you mean" in message:
        return message
    close = difflib.get_close_matches(unknown[1], [action.dest for action in parser._actions], n=1)
    return f"{message}; did you mean '{close[0]}'?" if close else message


def _explain(message: str, words: Sequence[str]) -> str:
    """Leave what tells about the mistake, and say where it is."""
    lines = [line.strip().removeprefix("- ") for line in message.splitlines()]
    telling = list(dict.fromkeys(line for line in lines if line and not _NOISE.match(line)))
    if len(telling) > 2:  # the key, a cause, and that another type of a union was not meant
        telling = [line for line in telling if not line.startswith("Not a valid subclass of ")]
    for pattern, replacement in _SHORTER:
        telling = [pattern.sub(replacement, line) for line in telling]
    return _place(message, words) + "\n".join(telling).replace(":\n", ": ").replace("\n", "\n  ")


def _place(message: str, words: Sequence[str]) -> str:
    """Where a mistake probably is, as ``file:line: ``; empty if it is in no file.

    The message names outer keys before inner ones, and a later file overrides an earlier one.
    """
    files = [path for word in words if (path := Path(word.rpartition("=")[2])).is_file()]
    if re.search("parsing config|Unexpected config", message):
        return _malformed(files)
    for suspect in reversed(list(_SUSPECT.finditer(message))):
        name = next(group for group in suspect.groups() if group)
        if suspect.lastindex not in (2, 4, 6):  # an option: in a file only its last part is on the line
            name = name.rpartition(".")[2]
        sought = re.compile(rf"(?<![\w.]){re.escape(name)}(?!\w)")
        for file in reversed(files):
            for number, line in enumerate(file.read_text(errors="replace").splitlines(), start=1):
                if sought.search(line.partition(" #")[0]):
                    return f"{file}:{number}: "
        if any(name in word for word in words):
            break
    return ""


def _malformed(files: Sequence[Path]) -> str:
    """The first file that is no YAML mapping, with the line where reading it ended."""
    for file in files:
        try:
            if not isinstance(yaml.safe_load(file.read_text(errors="replace")), dict):
                return f"{file}: no settings. "
        except yaml.MarkedYAMLError as error:
            mark = error.problem_mark
            return f"{file}:{mark.line + 1}: " if mark else f"{file}: "
    return ""
