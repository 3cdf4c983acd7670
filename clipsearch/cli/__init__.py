"""The command line: the only place that prints, catches and exits."""

from __future__ import annotations

import errno
import importlib
import os
import signal
import sys
import warnings
from typing import Any

import click

from clipsearch import __version__
from clipsearch.cli.settings import default_map
from clipsearch.errors import ClipsearchError

FOUND, NOTHING_FOUND, ERROR, PARTIAL, INTERRUPTED = 0, 1, 2, 3, 130

_STOPPING = ("SIGTERM", "SIGHUP", "SIGBREAK")

# name: (where the command lives, its line in --help). Nothing is imported before its turn,
# and these strings are the only references from here to the packages above.
_COMMANDS = {
    "index": (
        "indexer.command:index",
        "Add folders of images to an index, or bring it up to date.",
    ),
    "import": ("indexer.import_command:import_", "Add vectors that were computed elsewhere."),
    "search": ("clipsearch.cli.search:search", "Find images by words, images, date and place."),
    "similar": ("clipsearch.cli.search:similar", "Find images like one you have."),
    "saved": ("clipsearch.cli.saved:saved", "List what is new for a saved search."),
    "classify": ("clipsearch.cli.classify:classify", "Give every image one label of a set."),
    "tag": ("clipsearch.cli.tag:tag", "Give every image any number of labels."),
    "teach": (
        "clipsearch.cli.teach:teach",
        "Correct a saved label set by a few examples.",
    ),
    "discover": (
        "clipsearch.cli.discover:discover",
        "Find out what is there: groups of images, with names.",
    ),
    "clusters": ("clipsearch.cli.clusters:clusters", "Show what discover found, and change it."),
    "labels": ("clipsearch.cli.labels:labels", "List the saved label sets."),
    "compare": (
        "clipsearch.cli.compare:compare",
        "Compare saved label sets, their versions, or two models.",
    ),
    "evaluate": (
        "indexer.evaluate_command:evaluate",
        "Measure how good the labels are on images of which it is known what they show.",
    ),
    "vocabulary": (
        "clipsearch.cli.vocabulary:vocabulary",
        "Encode the words of a file once, and keep them.",
    ),
    "dups": ("clipsearch.cli.dups:dups", "Find duplicates, and which file of each to keep."),
    "export": (
        "indexer.export_command:export",
        "Act on all hits: tables, folders, contact sheets, XMP keywords; undo.",
    ),
    "failures": (
        "indexer.failures_command:failures",
        "List the images that were skipped, and why; try them again.",
    ),
    "prune": ("indexer.upkeep_command:prune", "Forget files that are missing."),
    "move": ("indexer.upkeep_command:move", "Say that a folder has another place now."),
    "compact": ("indexer.upkeep_command:compact", "Merge small files, let go of what is deleted."),
    "status": ("clipsearch.cli.status:status", "Show what an index holds."),
    "verify": ("indexer.verify_command:verify", "Check every byte of an index, and mend it."),
    "doctor": ("indexer.doctor_command:doctor", "Check what clipsearch needs on this machine."),
    "bench": (
        "indexer.bench_command:bench",
        "Measure how fast this machine is, and say which settings suit it.",
    ),
    "model": ("clipsearch.cli.model:model", "List the models, fetch one, move an index to it."),
    "finetune": (
        "indexer.finetune_command:finetune",
        "Train a model further on labelled photos, and measure it.",
    ),
    "sync": ("clipsearch.cli.sync:sync", "Bring the copy of an index in Milvus up to date."),
    "serve": ("ui.serve_command:serve", "Answer searches over HTTP, without the page."),
    "ui": ("ui.command:ui", "Open a collection in the browser."),
    "demo": ("indexer.demo:demo", "Try it all on a few pictures, without a network."),
}


class LazyGroup(click.Group):
    """A group that imports a command when it is called, and takes words for a search."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in _COMMANDS:
            return None
        module, _, name = _COMMANDS[cmd_name][0].partition(":")
        command: click.Command = getattr(importlib.import_module(module), name)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        # The short lines stand above, so that --help imports no command.
        with formatter.section("Commands"):
            formatter.write_dl([(name, line) for name, (_, line) in _COMMANDS.items()])

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except BrokenPipeError:
            # Here, because click itself would exit with 1, which says that nothing was found.
            silence_stdout()
            return FOUND

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args and args[0] not in _COMMANDS and not args[0].startswith("-"):
            args = ["search", *args]
        return super().resolve_command(ctx, args)


@click.group(
    cls=LazyGroup,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog='clipsearch "two dogs" is short for clipsearch search "two dogs".',
)
@click.version_option(__version__, "-V", "--version", prog_name="clipsearch")
@click.pass_context
def cli(ctx: click.Context) -> None:
    """Search, sort and name a collection of images with words.

    Index a folder once; then search it, and classify all of it against any labels, as often
    as you like, without an image being opened again.
    """


def silence_stdout() -> None:
    """The reader has had enough, as with ``| head -1``: that is no failure. Whatever Python
    would still flush at exit must not complain either."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _system_error(error: OSError) -> str:
    if error.errno == errno.ENOSPC:
        return "the disk is full: make room and run the same command again; what was done is kept"
    place = f"{os.fsdecode(error.filename)}: " if error.filename is not None else ""
    return f"{place}{error.strerror or _one_line(error)}"


def _for_terminal(message: object) -> str:
    """A message may quote a file name or another's index: nothing in it may steer a terminal."""
    from clipsearch.cli.output import for_display

    return "\n".join(for_display(line) for line in with_urls(str(message)).splitlines())


def with_urls(text: str) -> str:
    """``text`` with the URLs of indexes in object storage for the folders that stand for them
    here, which nobody has named."""
    mirrors = sys.modules.get("clipsearch.mirror_store")
    return text if mirrors is None else str(mirrors.named_by_urls(text))


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split()) or type(error).__name__


def no_more_interrupts() -> None:
    """A second Ctrl-C while the process is on its way out would only draw a traceback."""
    for name in ("SIGINT", *_STOPPING):
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), signal.SIG_IGN)


def _stop_as_if_interrupted(number: int, frame: object) -> None:
    raise KeyboardInterrupt


def _settings(arguments: list[str]) -> dict[str, Any]:
    try:
        return default_map()
    except Exception:
        if arguments[:1] == ["doctor"]:  # which is there to say what is wrong with them
            return {}
        raise


def main() -> None:
    """Run the command line and exit with its code."""
    # A closed terminal and a shutdown are promised what Ctrl-C is.
    for name in _STOPPING:
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), _stop_as_if_interrupted)
    sys.exit(run(sys.argv[1:]))


def run(arguments: list[str]) -> int:
    """Run the command line; returns the exit code and never lets a traceback out."""
    debug = bool(os.environ.get("CLIPSEARCH_DEBUG"))
    if not debug:  # Pillow remarks on odd EXIF; that is for developers
        warnings.filterwarnings("ignore")
    for stream in ("stdin", "stdout", "stderr"):  # None where the caller closed it, as with >&-
        if getattr(sys, stream) is None:
            setattr(sys, stream, open(os.devnull, "r" if stream == "stdin" else "w"))  # noqa: SIM115
    try:
        result: Any = cli.main(
            args=arguments,
            prog_name="clipsearch",
            standalone_mode=False,
            default_map=_settings(arguments),
        )
        sys.stdout.flush()
        return result if isinstance(result, int) else FOUND
    except click.exceptions.Exit as error:
        return error.exit_code
    except click.ClickException as error:
        error.show()
        return ERROR
    except (KeyboardInterrupt, click.Abort):
        no_more_interrupts()
        click.echo("Interrupted.", err=True)
        return INTERRUPTED
    except BrokenPipeError:
        silence_stdout()
        return FOUND
    except ClipsearchError as error:
        if debug:
            raise
        click.echo(f"Error: {_for_terminal(error)}", err=True)
        return ERROR
    except OSError as error:
        if debug:
            raise
        click.echo(f"Error: {_for_terminal(_system_error(error))}", err=True)
        return ERROR
    except Exception as error:
        if debug:
            raise
        click.echo(
            f"Error: {type(error).__name__}: {_for_terminal(_one_line(error))}\n"
            "This was not expected. CLIPSEARCH_DEBUG=1 shows where it happened.",
            err=True,
        )
        return ERROR
