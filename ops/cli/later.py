"""The commands whose names are fixed and which are not built yet: each says so, with exit status 2."""

from collections.abc import Callable

import typer

from backends.errors import NotBuiltYet

PANEL = "Not built yet"
_ANY_ARGUMENTS = {"ignore_unknown_options": True, "allow_extra_args": True}

_GROUPS = {
    "move": ("Move a collection to another backend while it serves.", ("plan", "start", "status", "rollback")),
    "backup": ("Back up, verify and restore.", ("create", "list", "verify", "restore", "prune")),
    "recall": ("Measure recall on live traffic, and tune it.", ("measure", "tune", "history")),
    "latency": ("Report latencies.", ("report",)),
    "cost": ("Report what it costs.", ("report",)),
}
_COMMANDS = {"health": "Check the corpus and the vector indexes."}


def add_to(app: typer.Typer) -> None:
    """Add the commands to come, marked as such in the help."""
    for name, summary in _COMMANDS.items():
        _add(app, name, f"{summary} (not built yet)", f"ragstone {name}")
    for group, (summary, names) in _GROUPS.items():
        commands = typer.Typer(no_args_is_help=True)
        for name in names:
            _add(commands, name, "(not built yet)", f"ragstone {group} {name}")
        app.add_typer(commands, name=group, help=f"{summary} (not built yet)", rich_help_panel=PANEL)


def _add(app: typer.Typer, name: str, summary: str, spoken: str) -> None:
    app.command(name, help=summary, rich_help_panel=PANEL, context_settings=_ANY_ARGUMENTS)(_refuse(spoken))


def _refuse(spoken: str) -> Callable[[], None]:
    def refuse() -> None:
        raise NotBuiltYet(f"`{spoken}` is not built yet")

    return refuse
