"""`ddfw`: the group of commands, and the one place where errors become words and exit codes."""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import select
import signal
import sys
import traceback
from collections.abc import Iterator, Sequence
from types import FrameType
from typing import Any, NoReturn

import click

from ddfw.artifacts.run_dir import CONFIG
from ddfw.cli.output import STDOUT, say
from ddfw.cli.shared import plugin_option
from ddfw.config.extensions import commands, imported
from ddfw.config.listing import listing, stored_listing
from ddfw.config.listing_file import forget_records
from ddfw.config.named_plugins import forget_named_plugins, plugins_are_named
from ddfw.contracts.command import Command
from ddfw.errors import PluginError, is_disk_error
from ddfw.plain import message_line, printable, printable_lines
from ddfw.process import ranks
from ddfw.process.allocator import keep_freed_memory
from ddfw_registry import DuplicateComponentError, Offers, PluginFailure

USAGE, PLUGIN, BUG, IO, TERMINATED, INTERRUPTED = 2, 3, 70, 74, 75, 130


#: The core's own commands; the summary of each is the first line of its help.
CORE_COMMANDS = {
    name: Command(name=name, summary=summary, target=f"ddfw.cli.{name}:{name}_command")
    for name, summary in (
        ("completion", "Print or install completion for bash, zsh or fish."),
        ("describe", "Show a component's options, source and citation."),
        ("eval", "Train fresh networks on a set of images and test them."),
        ("list", "List what is installed, of one KIND or of all."),
        ("plugins", "List installed plugins and whether they work."),
        ("run", "Distil a data set."),
    )
}


#: The way out of errors of the system, where it is another one than to name another place.
_WAYS = {
    errno.ENOSPC: "free some room, or name another place (such as --out); the same command goes on",
    errno.EDQUOT: "free some room, or name another place (such as --out); the same command goes on",
    errno.EFBIG: "raise the limit on the size of files (`ulimit -f`); the same command goes on",
}


class Terminated(KeyboardInterrupt):
    """SIGTERM came; like an interrupt, so that nothing that shields itself from errors swallows it."""


class _Broken(Exception):
    """A pipe is broken; hides that from click, which would exit with 1 wherever it broke."""

    def __init__(self, error: BrokenPipeError) -> None:
        super().__init__(str(error))
        self.error = error


@contextlib.contextmanager
def _hiding_broken_pipes() -> Iterator[None]:
    try:
        yield
    except BrokenPipeError as error:
        raise _Broken(error) from error


#: Commands of the core that ask no plugin in this process.
_LIGHT = ("completion", "describe", "list", "plugins")


def _offered() -> Offers[Command]:
    """The commands that plugins offer; plugins are asked in a child process if the answer is not stored."""
    return listing().commands


def _offered_to_core(name: str) -> Offers[Command] | None:
    """The commands that plugins offer, to see whether one has the name of a core command; None if that can wait."""
    known = stored_listing("outline")
    if known is not None:
        return known.commands
    return None if name in _LIGHT else commands()  # a run asks the plugins anyway


class _Commands(click.Group):
    """Commands whose modules are imported when they are called: the core's own, and those of plugins."""

    def make_context(self, *args: Any, **kwargs: Any) -> click.Context:
        """As click's own, with errors of pipes kept."""
        with _hiding_broken_pipes():
            return super().make_context(*args, **kwargs)

    def invoke(self, ctx: click.Context) -> Any:
        """As click's own, with errors of pipes kept."""
        with _hiding_broken_pipes():
            return super().invoke(ctx)

    def list_commands(self, ctx: click.Context) -> list[str]:
        """The names of all commands, sorted."""
        return sorted({*CORE_COMMANDS, *_offered().entries, *_offered().duplicates})

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        """The command of this name, imported now; None if there is none.

        Raises:
            DuplicateComponentError: two plugins, or a plugin and the core, offer the name.
            PluginError: a plugin's command cannot be imported.
        """
        if name in CORE_COMMANDS:
            offered = _offered_to_core(name)
            entry = None if offered is None else offered.entries.get(name)
            owners = () if offered is None else (entry.plugin,) if entry else offered.duplicates.get(name, ())
            if owners:
                raise DuplicateComponentError("command", name, ("ddfw", *owners), "", "command")
            found: click.Command = imported(CORE_COMMANDS[name].target, "ddfw")
            return found
        if name not in _offered().entries and name not in _offered().duplicates:
            return None
        offer = _offered().get(name)
        command: object = imported(offer.item.target, offer.plugin)
        if not isinstance(command, click.Command):
            raise PluginError(f"plugin {offer.plugin} names {offer.item.target}, which is no click.Command")
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Writes the commands with their summaries, without importing them."""
        summaries = {name: command.summary for name, command in CORE_COMMANDS.items()}
        for name, offer in _offered().entries.items():
            summaries.setdefault(name, offer.item.summary)
        for name, owners in _offered().duplicates.items():
            summaries.setdefault(name, f"Offered by {' and '.join(owners)}: disable all but one of them.")
        with formatter.section("Commands"):
            formatter.write_dl([(printable(name), printable(summary)) for name, summary in sorted(summaries.items())])

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """The command that the first argument names.

        Raises:
            NoSuchCommand: there is none of that name; the nearest ones are suggested.
        """
        try:
            return super().resolve_command(ctx, args)
        except click.exceptions.NoSuchCommand as error:
            raise click.exceptions.NoSuchCommand(args[0], possibilities=self.list_commands(ctx), ctx=ctx) from error


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="ddfw", prog_name="ddfw")
@plugin_option
@click.option("--traceback", "show_traceback", is_flag=True, help="Show the whole traceback of an internal error.")
def cli(show_traceback: bool) -> None:
    """Learn a small synthetic training set from a large real one.

    \b
    ddfw run --param lss --traj mct     the main job, on data that needs no download
    ddfw recipes list                   settings for known data, methods and sizes
    ddfw list                           every component that is installed
    ddfw describe lss                   a component's options
    ddfw completion --install           <TAB> completes components, recipes, settings and runs

    Exit codes: 0 done, 1 run failed or directory in use, 2 usage or configuration, 3 plugin, 4 data, 5 diverged,
    70 internal error, 74 disk, 75 stopped by SIGTERM or --max-time (the same command goes on), 130 interrupted.
    """


class _Shown(logging.Handler):
    """Shows warnings of ddfw and of its plugins on standard error."""

    def emit(self, record: logging.LogRecord) -> None:
        """Writes one line."""
        say(f"{record.levelname.lower()}: {record.getMessage()}", err=True)


def main() -> NoReturn:
    """Entry point of the console script."""
    keep_freed_memory()
    sys.exit(invoke(sys.argv[1:]))


def invoke(arguments: list[str]) -> int:
    """Runs a command line and returns its exit code; every error is printed here, in one to six lines."""
    came: list[int] = []

    def terminate(number: int, frame: FrameType | None) -> None:
        came.append(number)
        raise Terminated

    previous = signal.signal(signal.SIGTERM, terminate)
    forget_records()
    listing.cache_clear()
    shown = _Shown(level=logging.WARNING)
    logging.getLogger("ddfw").addHandler(shown)
    try:
        with ranks.first_rank_shows():
            if "_DDFW_COMPLETE" in os.environ:
                import ddfw.cli.completion  # noqa: F401  # our scripts replace those of click

            code = cli.main(args=arguments, prog_name="ddfw", standalone_mode=False)
        return code if isinstance(code, int) else 0
    except click.exceptions.Exit as stop:
        return stop.exit_code
    except click.ClickException as error:
        if ranks.speaks(error.exit_code):
            _show_usage(error)
        return error.exit_code
    except (click.Abort, KeyboardInterrupt) as stop:
        # click turns an interrupt into Abort and keeps the interrupt as its cause.
        interrupt = stop if isinstance(stop, KeyboardInterrupt) else stop.__cause__ or stop.__context__
        kept = "; ".join(getattr(interrupt, "__notes__", ())) or "finished experts are kept"
        # Ray's calls turn whatever a handler raises into a plain interrupt.
        if not came:
            return _say([f"interrupted; {kept}"], INTERRUPTED)
        return _say([f"stopped by SIGTERM; {kept}"], TERMINATED)
    except OSError as error:
        return _of_system(error, arguments)
    except _Broken as broken:
        return _of_system(broken.error, arguments)
    except Exception as error:
        return _known(error, arguments)
    finally:
        forget_named_plugins()
        signal.signal(signal.SIGTERM, previous)
        logging.getLogger("ddfw").removeHandler(shown)


def _of_system(error: OSError, arguments: list[str]) -> int:
    printing = error.filename == STDOUT or (error.filename is None and _reader_is_gone())
    if printing:  # what is left of it must not be written, and fail, when the process ends
        with contextlib.suppress(AttributeError, ValueError, OSError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        if isinstance(error, BrokenPipeError):  # `ddfw list | head`
            return 0
    # A file that a user named, a disk that is full, or another end that is gone; without these it is ours.
    if error.filename is not None or is_disk_error(error) or isinstance(error, BrokenPipeError):
        return _say([_io_words(error)], IO)
    return _internal(error, arguments)


def _reader_is_gone() -> bool:
    """Whether standard output is a pipe that nobody reads."""
    try:
        poll = select.poll()
        poll.register(sys.stdout.fileno(), 0)
        return any(events & (select.POLLERR | select.POLLHUP) for _, events in poll.poll(0))
    except (AttributeError, ValueError, OSError):  # it is closed, or no file
        return False


def _io_words(error: OSError) -> str:
    """What the system refused, why, and the way out."""
    if isinstance(error, BrokenPipeError) and error.filename is None:
        return f"a pipe or a connection was closed at its other end ({error.strerror}); start what it leads to again"
    way = _WAYS.get(error.errno or 0, "name another place (such as --out)")
    return f"cannot write or read {error.filename or 'a file'}: {error.strerror}; {way}"


def _known(error: Exception, arguments: list[str]) -> int:
    from ddfw import errors

    if isinstance(error, errors.DdfwError):
        if isinstance(error, PluginError) and "--traceback" in arguments and ranks.speaks(PLUGIN):
            traceback.print_exception(error)
        return _say(error.args, error.exit_code)
    if isinstance(error, errors.OptionError):  # of an executor, when its session is opened or at work
        return _say([error], USAGE)
    if not isinstance(error, errors.RegistryError):
        return _internal(error, arguments)
    causes = error.causes if isinstance(error, errors.ConfigError) else (error,)
    if any(isinstance(c, DuplicateComponentError) for c in causes):
        return _say([error], PLUGIN)
    missing = [c for c in causes if isinstance(c, errors.UnknownComponentError)]
    lines = error.problems if isinstance(error, errors.ConfigError) else [error]
    if not missing:
        return _say(lines, USAGE if isinstance(error, errors.ConfigError) else PLUGIN)
    kinds = {"", *(c.kind for c in missing)}
    failures = [failure for failure in listing().failures if failure.kind in kinds]
    code = _say(lines, PLUGIN if failures else USAGE)
    # Where another name was probably meant, a local plugin is unlikely; a file or a run may be one with a plugin.
    run = any(os.path.isfile(word) or os.path.isfile(os.path.join(word, CONFIG)) for word in arguments)
    local = (run or any(c.suggestion is None for c in missing)) and not plugins_are_named() and not failures
    _say_what_is_missing(failures, local)
    return code


def _say_what_is_missing(failures: Sequence[PluginFailure], local: bool) -> None:
    """Plugins that could have offered an unknown component, were they not disabled or broken.

    Args:
        failures: the broken ones.
        local: whether to say how a plugin is named that is not installed.
    """
    if not ranks.speaks(PLUGIN if failures else USAGE):
        return
    for failure in failures[:3]:
        say(f"note: plugin {failure.identity} does not work: {failure.error}", err=True)
    for plugin in [plugin for plugin in listing().plugins if plugin.status == "disabled"][: 3 - len(failures[:3])]:
        say(f"note: {plugin.identity} is disabled by DDFW_DISABLE_PLUGINS", err=True)
    if local:
        say("note: a component in a file of your own needs --plugin FILE.py with every command", err=True)


def _internal(error: Exception, arguments: list[str]) -> int:
    if "--traceback" in arguments and ranks.speaks(BUG):
        traceback.print_exception(error)
    frame = traceback.extract_tb(error.__traceback__)[-1]
    text = f"{type(error).__name__}: {printable(' '.join(printable_lines(error).split()))}"
    place = f"at {os.path.basename(frame.filename)}:{frame.lineno} in {frame.name}"
    more = "`ddfw --traceback …` shows the whole of it"
    owner = _plugin_in(error)
    if owner is not None:
        return _say([f"plugin {owner} failed: {text}", f"{place}; {more}"], PLUGIN)
    return _say([f"internal error: {text}", f"{place}; {more}"], BUG)


def _plugin_in(error: Exception) -> str | None:
    """The plugin of a third party in whose code an error arose (the innermost one), None if there is none."""
    from ddfw.config.catalog import catalog
    from ddfw.config.extensions import formats
    from ddfw.kinds import KINDS

    found = catalog()
    entries = [e for kind in KINDS for e in found.entries(kind.id) if e.distribution != "ddfw"]
    owners = {e.cls.__module__: f"{e.plugin} ({e.kind} {e.name})" for e in entries}
    for offer in formats().entries.values():
        if offer.distribution != "ddfw":
            for target in (offer.item.reader, offer.item.writer):
                owners[target.partition(":")[0]] = f"{offer.plugin} (format {offer.name})"
    for command in commands().entries.values():
        if command.distribution != "ddfw":
            owners[command.item.target.partition(":")[0]] = f"{command.plugin} (command {command.name})"
    owner = None
    for frame, _ in traceback.walk_tb(error.__traceback__):
        owner = owners.get(frame.f_globals.get("__name__", ""), owner)
    return owner


def _show_usage(error: click.ClickException) -> None:
    """Shows an error about the words of a command line as click does, with what was typed as plain text."""
    said = error.format_message()
    error.format_message = lambda: message_line(said)  # type: ignore[method-assign]
    error.show()


def _say(lines: Sequence[object], code: int) -> int:
    """Prints an error of at most six lines, and returns its exit code."""
    if ranks.speaks(code):
        first, *others = [*lines[:5], f"... and {len(lines) - 5} more"] if len(lines) > 6 else lines or ["?"]
        prefix = click.style("error:", fg="red", bold=True) if code not in (INTERRUPTED, TERMINATED) else "ddfw:"
        with contextlib.suppress(OSError):  # nobody reads it
            click.echo(f"{prefix} {message_line(first)}", err=True)
            say(*others, err=True)
    return code
