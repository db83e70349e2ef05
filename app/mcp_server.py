"""``python -m app.mcp_server``: the page's endpoints as tools of the Model Context Protocol, for assistants.

It speaks with whoever started it over standard input and output, and asks a running page as any other program does, by
Gradio's client: it opens no port, and the page gets no further route. An assistant decides which image is sent, and the
page may be on another machine, so only images below folders that a person has named are read.
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path
from typing import Any

import httpx
from gradio_client import Client, handle_file
from gradio_client.exceptions import AppError
from mcp.server.mcpserver import MCPServer
from mcp.server.mcpserver.exceptions import ToolError
from mcp_types import ToolAnnotations

from app import api_text, mcp_text
from engine.version import program_version

SIGN_IN = "/sign-in"
"""As any program signs in; ``app.sign_in`` would bring all of Gradio with it: 7 s for an assistant that waits."""
PASSWORD = "DSFEDMED_PASSWORD"
"""The environment's variable, for what stands in a command line is seen by everybody on the machine."""


class Page:
    """A running page, asked at the first question, for an assistant may be started before it."""

    def __init__(self, address: str, *, user: str | None, password: str, save_to: Path) -> None:
        self._address, self._user, self._password, self._save_to = address.rstrip("/"), user, password, save_to
        self._client: Client | None = None

    def ask(self, endpoint: str, *values: Any) -> Any:
        """Return what an endpoint answers; raises ``ToolError`` with the page's own sentence where it refuses."""
        try:
            if self._client is None:
                self._client = self._connected()
            return self._client.predict(*values, api_name=endpoint)
        except AppError as error:
            raise ToolError(f"{error} ({error.title})") from error
        except httpx.HTTPStatusError as error:
            raise ToolError(_detail(error.response)) from error
        except (httpx.HTTPError, OSError) as error:
            self._client = None  # the page may have been started anew: its session is another
            raise ToolError(mcp_text.NO_PAGE.format(address=self._address, reason=error)) from error

    def _connected(self) -> Client:
        headers = {} if self._user is None else {"cookie": self._signed_in(self._user)}
        self._save_to.mkdir(parents=True, exist_ok=True)
        return Client(
            self._address, headers=headers, download_files=self._save_to, verbose=False, analytics_enabled=False
        )

    def _signed_in(self, user: str) -> str:
        form = {"name": user, "password": self._password}
        answer = httpx.post(self._address + SIGN_IN, data=form)
        if answer.status_code != httpx.codes.SEE_OTHER:
            raise ToolError(mcp_text.NOT_SIGNED_IN.format(user=user, status=answer.status_code, variable=PASSWORD))
        return "; ".join(f"{name}={value}" for name, value in answer.cookies.items())


def _detail(answer: httpx.Response) -> str:
    try:
        return str(answer.json()["detail"])
    except (ValueError, KeyError, TypeError):
        return f"{answer.status_code} {answer.reason_phrase}"


def allowed(image: str, folders: list[Path]) -> Path:
    """Return the file that ``image`` names below one of ``folders``, links followed; ``ToolError`` for any other."""
    path = Path(image).expanduser().resolve()
    if not any(path.is_relative_to(folder) for folder in folders):
        named = ", ".join(map(str, folders))
        raise ToolError(mcp_text.OUTSIDE.format(image=image, folders=named))
    if not path.is_file():
        raise ToolError(mcp_text.NO_FILE.format(image=image))
    return path


def best(models: list[dict[str, Any]]) -> str:
    """Return the key of the first of a page's models, which is its best; ``ToolError`` where it offers none."""
    if not models:
        raise ToolError(mcp_text.NO_MODEL)
    return str(models[0]["key"])


def build(page: Page, folders: list[Path]) -> MCPServer:
    """Return the server with its seven tools; names and parameters are those of the page's endpoints."""
    server = MCPServer(
        "dsfedmed-studio", version=program_version(), instructions=mcp_text.INSTRUCTIONS, log_level="WARNING"
    )

    def models() -> dict[str, Any]:
        return dict(page.ask("/models"))

    def segment(
        image: str, model: str = "", slice: int = 1, anyway: bool = False, looks: str = "", variant: str = ""
    ) -> dict[str, Any]:
        path = allowed(image, folders)
        key = model or best(page.ask("/models")["models"])
        mask, figures = page.ask("/segment", handle_file(path), key, slice, anyway, looks, variant)
        return {"mask": mask, "model": key, **figures}

    def plan(configuration: str = "", preset: str = "") -> dict[str, Any]:
        return dict(page.ask("/plan", configuration, preset))

    def submit(configuration: str = "", preset: str = "") -> dict[str, Any]:
        return dict(page.ask("/submit", configuration, preset))

    def status(run_id: str) -> dict[str, Any]:
        return dict(page.ask("/status", run_id))

    def runs(limit: int = 20) -> dict[str, Any]:
        return dict(page.ask("/list", limit))

    def report(run_id: str) -> dict[str, Any]:
        return dict(page.ask("/report", run_id))

    looks_only = ToolAnnotations(read_only_hint=True, open_world_hint=False)
    adds = ToolAnnotations(read_only_hint=False, destructive_hint=False, open_world_hint=False)
    for function, name, told, kind in (
        (models, "models", api_text.MODELS, looks_only),
        (segment, "segment", f"{mcp_text.SEGMENT} {api_text.SEGMENT}", adds),
        (plan, "plan", api_text.PLAN, looks_only),
        (submit, "submit", api_text.SUBMIT, adds),
        (status, "status", api_text.STATUS, looks_only),
        (runs, "list", api_text.LIST, looks_only),
        (report, "report", api_text.REPORT, looks_only),
    ):
        server.add_tool(function, name=name, description=told, annotations=kind)
    return server


def main() -> None:
    """Parse the command line and answer until whoever started it hangs up."""
    parser = argparse.ArgumentParser(prog="python -m app.mcp_server", description=mcp_text.ABOUT)
    parser.add_argument("--page", default="http://localhost:7860", help=mcp_text.PAGE_HELP)
    parser.add_argument("--images", type=Path, action="append", metavar="FOLDER", help=mcp_text.IMAGES_HELP)
    parser.add_argument("--save-to", type=Path, default=Path("segmented"), metavar="FOLDER", help=mcp_text.SAVE_HELP)
    parser.add_argument("--user", metavar="NAME", help=mcp_text.USER_HELP.format(variable=PASSWORD))
    chosen = parser.parse_args()
    folders = [folder.expanduser().resolve() for folder in chosen.images or [Path()]]
    missing = [str(folder) for folder in folders if not folder.is_dir()]
    if missing:
        sys.exit(mcp_text.NO_FOLDER.format(folders=", ".join(missing)))
    password = os.environ.get(PASSWORD, "")
    page = Page(chosen.page, user=chosen.user, password=password, save_to=chosen.save_to.expanduser().resolve())
    build(page, folders).run("stdio")


if __name__ == "__main__":
    main()
