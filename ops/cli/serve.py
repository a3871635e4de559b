"""`ragstone serve`: the HTTP service, from this terminal."""

import ipaddress
from typing import Annotated

import typer

from backends.errors import InvalidSettings
from ops.cli.session import session
from ops.output import Output
from retrieval.placement import large_backend_here


def serve(
    context: typer.Context,
    host: Annotated[str, typer.Option("--host", help="The address to listen on.")] = "127.0.0.1",
    port: Annotated[
        int, typer.Option("--port", min=0, max=65535, help="The port to listen on; 0 for any free one.")
    ] = 8000,
    insecure: Annotated[
        bool, typer.Option("--insecure", help="Listen on an address that others can reach, without API keys.")
    ] = False,
) -> None:
    """Serve the collections over HTTP until Ctrl-C or SIGTERM."""
    # FastAPI, uvicorn and Prometheus' client are for this command alone.
    from ops.service import service
    from ops.serving import listen, run_until_stopped, url_of

    output = Output()
    here = session(context)
    _require_loopback(host, insecure)
    with listen(host, port) as listener, here.open(output, creating=True) as rag, service(rag) as app:
        url = url_of(listener)
        threshold = f"{rag.settings.placement_threshold:,}"
        output.note(f"Collections above {threshold} passages go to {large_backend_here(rag.settings)}.")
        run_until_stopped(
            app,
            listener,
            end_answers=rag.close_streams,
            ready=lambda: output.results.print(
                f"Ragstone is at {url} (try {url}/docs). Ctrl-C stops it.", soft_wrap=True
            ),
        )
    output.note("Stopped.")


def _require_loopback(host: str, insecure: bool) -> None:
    try:
        loopback = host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        loopback = False
    if not (loopback or insecure):
        raise InvalidSettings(
            "--host",
            f"found {host}, which others may reach, and there are no API keys yet: anybody there could read and "
            "delete everything; use 127.0.0.1 behind a proxy that checks who asks, or add --insecure",
        )
