"""The commands whose names are fixed and which are not built yet: each says so, with exit status 2."""

from collections.abc import Callable

import typer

from backends.errors import NotBuiltYet

PANEL = "Not built yet"
_MARK = "(not built yet)"
_ANY_ARGUMENTS = {"ignore_unknown_options": True, "allow_extra_args": True}

_GROUPS = {
    "cost": ("Report what it costs.", {"report": "Show tokens, time and money by collection."}),
}


def add_to(app: typer.Typer) -> None:
    """Add the commands to come, marked as such in the help."""
    for group, (summary, names) in _GROUPS.items():
        commands = typer.Typer(no_args_is_help=True)
        for name, does in names.items():
            _add(commands, name, does, f"ragstone {group} {name}")
        app.add_typer(commands, name=group, help=f"{summary} {_MARK}", rich_help_panel=PANEL)


def _add(app: typer.Typer, name: str, summary: str, spoken: str) -> None:
    app.command(name, help=f"{summary} {_MARK}", rich_help_panel=PANEL, context_settings=_ANY_ARGUMENTS)(
        _refuse(spoken)
    )


def _refuse(spoken: str) -> Callable[[], None]:
    def refuse() -> None:
        raise NotBuiltYet(f"`{spoken}` is not built yet")

    return refuse
