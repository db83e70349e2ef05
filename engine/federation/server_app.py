"""The server's side as a Flower ServerApp: it only hands the Grid to the caller's function."""

from __future__ import annotations

from collections.abc import Callable

from flwr.app import Context
from flwr.serverapp import Grid, ServerApp


def build_server_app(serve: Callable[[Grid], None]) -> ServerApp:
    """Return a ServerApp whose main is ``serve``, which calls ``rounds.run_rounds`` and ``rounds.call_once``."""
    app = ServerApp()

    @app.main()
    def main(grid: Grid, context: Context) -> None:
        serve(grid)

    return app
