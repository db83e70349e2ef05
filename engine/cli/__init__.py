"""The command line: ``python -m engine COMMAND``.

Exit status: 0 done, 1 the run failed, 2 something that the person can mend (a ``UserError``), 130 stopped. With
``--json`` a command prints one JSON object on standard output, errors as ``{"error": {code, what, why, fix}}``.
Progress goes to standard error. Heavy packages are imported by the commands that need them.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

import click
import typer
import typer.core

from engine.cli import (
    appearance,
    archives,
    data,
    federation,
    joining,
    machine,
    methods,
    models,
    reports,
    runs,
    tables,
)
from engine.cli.output import print_error
from engine.errors import UserError

# Where rich is installed, typer 0.20 puts a backslash before "[" for rich to take away, also where rich is not used.
typer.core.HAS_RICH = False

app = typer.Typer(
    name="python -m engine",
    help="DSFedMed: federated dual distillation, from the sites' images to a served model.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
for command in (runs.plan, runs.run, runs.resume, runs.cancel, runs.extend, runs.fork, joining.join):
    app.command()(command)
app.command("list")(runs.list_runs)
app.command()(runs.show)
app.command()(runs.status)
app.command()(reports.report)
app.command()(archives.export_run)
app.command()(archives.import_run)
app.command()(methods.methods)
app.add_typer(data.app, name="data", help="Check, preview or make datasets.")
app.command()(tables.table)
app.command()(models.pretrain)
app.add_typer(models.weights_app, name="weights", help="The weights that runs start from.")
app.command()(models.export)
app.command()(models.predict)
app.command()(appearance.appearance)
app.add_typer(federation.app, name="federation", help="A federation across hospitals: its sites and keys.")
app.add_typer(federation.server_app, name="server", help="The server of a federation.")
app.add_typer(federation.site_app, name="site", help="A site of a federation, beside its images.")
app.command()(machine.doctor)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return the exit status."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    as_json = "--json" in given
    try:
        status = typer.main.get_command(app).main(args=given, prog_name="python -m engine", standalone_mode=False)
    except UserError as error:
        print_error(error.as_dict(), as_json=as_json)
        return 2
    except click.ClickException as error:
        if as_json:
            fix = "`python -m engine COMMAND --help` shows what it takes."
            reason = {
                "code": "cli.usage",
                "what": error.format_message(),
                "why": "The command cannot be read.",
                "fix": fix,
            }
            print_error(reason, as_json=True)
        else:
            error.show()
        return error.exit_code
    except (click.Abort, KeyboardInterrupt):
        return 130
    except (OSError, UnicodeEncodeError) as error:
        print_error(_of_the_system(error).as_dict(), as_json=as_json)
        return 2
    return status if isinstance(status, int) else 0


def _of_the_system(error: OSError | UnicodeEncodeError) -> UserError:
    """Return the fault of a path that the operating system refused, or of bytes that are no text, in words."""
    if isinstance(error, OSError):
        return UserError(
            "cli.file",
            what=f"{error.strerror or error}: {error.filename or 'a file'}.",
            why="The operating system refused to read or write there.",
            fix="Give another path, free some space, or mend the permissions.",
        )
    return UserError(
        "cli.encoding",
        what=f"{error.object!a} is not valid UTF-8.",
        why="Runs and files are looked up by text.",
        fix="Type the name again, or rename the file.",
    )
