"""An error to one clear line and an exit status."""

import traceback
from collections.abc import Sequence

import typer

from backends.errors import BackupDamaged, Busy, FilterTooExpensive, InvalidInput, RagstoneError, Unavailable
from ops.output import Output, printable

FINE = 0
FINDING = 1
USAGE = 2
UNREACHABLE = 3
FAULT = 70
"""Something that Ragstone did not foresee (EX_SOFTWARE): none of the four that scripts rely on."""
INTERRUPTED = 130


def exit_status(error: BaseException) -> int:
    """Return the exit status: 1 for damage, 2 where caller or settings can mend it, 3 where something is away."""
    if isinstance(error, Unavailable | Busy | FilterTooExpensive):
        return UNREACHABLE
    if isinstance(error, BackupDamaged):
        return FINDING
    if isinstance(error, RagstoneError):
        return USAGE
    if isinstance(error, typer.TyperException):
        return error.exit_code
    return FAULT


def report(error: Exception, args: Sequence[str], *, verbose: bool) -> int:
    """Say what went wrong, and return the exit status.

    One line on standard error, with the traceback before it where `verbose`. Where `--json` was asked for,
    also `{"error": {"code", "message", "field"}}` on standard output.
    """
    output = Output(as_json=asks_for_json(args))
    if verbose:
        output.note("".join(traceback.format_exception(error)).rstrip())
    message = _message(error, args)
    if message:  # else the help that was printed says it
        output.note(f"ragstone: {printable(message)}")
    if output.as_json:
        output.result({"error": _problem(error, message)})
    return exit_status(error)


def asks_for_json(args: Sequence[str]) -> bool:
    """Tell whether the command line asks for JSON, also one that is too wrong to be understood."""
    options = args[: list(args).index("--")] if "--" in args else args
    return "--json" in options


def _message(error: Exception, args: Sequence[str]) -> str:
    if isinstance(error, typer.TyperException):
        return _usage(error, args)
    if isinstance(error, RagstoneError):
        return str(error)
    return f"unexpected {type(error).__name__}: {error} (a fault of Ragstone's: see it with RAGSTONE_DEBUG=1)"


def _usage(error: typer.TyperException, args: Sequence[str]) -> str:
    """What is wrong with the command line, and what would be right."""
    option = getattr(error, "option_name", None)
    if option in ("--data", "--verbose"):
        return f"{option} stands before the command: ragstone {option} ... {_first_word(args)} ..."
    if option == "--json":
        return "--json stands after the command, with those that print a result"
    message = " ".join(error.format_message().split())
    context = getattr(error, "ctx", None)
    return f"{message} See: {context.command_path} --help" if message and context else message


def _first_word(args: Sequence[str]) -> str:
    return next((word for word in args if not word.startswith("-")), "COMMAND")


def _problem(error: Exception, message: str) -> dict[str, str | None]:
    code = error.code if isinstance(error, RagstoneError) else "fault"
    if isinstance(error, typer.TyperException):
        code = "usage"
    return {
        "code": code,
        "message": message,
        "field": error.field if isinstance(error, InvalidInput) else getattr(error, "option_name", None),
    }
