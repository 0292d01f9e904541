"""The command line. Each command is one short function, and imports what it needs when it is called."""

import os
import sys
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from medd import DISCLAIMER, __version__
from medd.cli import (
    admin,
    annotate,
    backfill,
    classify,
    demo,
    doctor,
    drift,
    echo,
    evaluate,
    explain,
    export,
    ingest,
    load,
    models,
    plan,
    pull,
    purge,
    queue,
    reconcile,
    results,
    retrain,
    serve,
    simulate,
    sweep,
    train,
)
from medd.errors import MeddError, PluginError, SettingsError


class _Commands(TyperGroup):
    """The commands of medd, and those of plugins, which are loaded where none of medd's is meant."""

    _brought: dict[str, Any] | None = None

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """The command of this name."""
        return super().get_command(ctx, cmd_name) or self._of_plugins().get(cmd_name)

    def list_commands(self, ctx: Any) -> list[str]:
        """The names of all commands."""
        return [*super().list_commands(ctx), *self._of_plugins()]

    def _of_plugins(self) -> dict[str, Any]:
        if self._brought is None:
            from medd.plugins import add_commands, load_plugins

            brought = typer.Typer(rich_markup_mode=None)
            brought.callback()(_options)  # without it, a single command would be the whole
            add_commands(load_plugins(), brought)
            self._brought = dict(typer.main.get_group(brought).commands)
            if taken := sorted(self._brought.keys() & self.commands.keys()):
                raise PluginError(f"a plugin brings a command that medd has already. Received: {', '.join(taken)}")
        return self._brought


app = typer.Typer(
    name="medd",
    cls=_Commands,
    help=f"A batch classifier daemon for X-rays, beside a PACS.\n\n{DISCLAIMER}",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)

app.command()(serve.serve)
app.command(hidden=True)(serve.stage)
app.command()(demo.demo)
app.command()(ingest.ingest)
app.command()(classify.classify)
app.command()(results.results)
app.command()(results.worklist)
app.command()(simulate.simulate)
app.command()(explain.explain)
app.command()(annotate.annotate)
app.command()(annotate.annotations)
app.command()(train.train)
app.command()(sweep.sweep)
app.command()(evaluate.evaluate)
app.command()(drift.drift)
app.command()(retrain.retrain)
app.command()(export.export)
app.add_typer(models.app, name="models", help="The models: which is on duty, which scores in its shadow.")
app.command()(models.rescore)
app.command()(purge.purge)
app.command()(pull.pull)
app.command()(backfill.backfill)
app.command()(echo.echo)
app.command()(load.load)
app.command()(plan.plan)
app.command()(doctor.doctor)
app.command()(reconcile.reconcile)
app.add_typer(queue.app, name="queue", help="The work that waits, and the work that failed.")
app.command()(admin.plugins)
app.add_typer(admin.config, name="config", help="The settings.")
app.add_typer(admin.db, name="db", help="The database's schema.")


def _show_version(wanted: bool) -> None:
    if wanted:
        print(f"medd {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    pass


def main() -> None:
    """Run a command. Exit code 0: done; 1: the work failed for some input; 2: the call or the settings are wrong."""
    try:
        app()
    except (SettingsError, PluginError) as error:
        _fail(error, 2)
    except MeddError as error:
        _fail(error, 1)
    except BrokenPipeError:
        # The reader of our output has gone (`medd results | head`); Python would complain once more at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)


def _fail(error: MeddError, code: int) -> None:
    print(f"medd: {' '.join(str(error).split())}", file=sys.stderr)
    sys.exit(code)
