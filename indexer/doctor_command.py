"""``clipsearch doctor``."""

from __future__ import annotations

import dataclasses

import click

from clipsearch.cli import ERROR, FOUND
from clipsearch.cli.output import counted, for_display, json_line, on_terminal, table, write_bytes
from clipsearch.cli.places import index_option
from indexer.doctor import OK, PROBLEM, WARNING, check_machine


@click.command()
@click.option("--json", "as_json", is_flag=True, help="One JSON object a line, last the summary.")
@index_option
def doctor(index_path: str | None, as_json: bool) -> int:
    """Check what clipsearch needs on this machine, and the index if there is one.

    Exits with 2 when something has to be put right; every such line names the cure.
    """
    checks = check_machine()
    try:
        from indexer.doctor_index import check_index

        checks += check_index(index_path)
    except Exception as error:  # of an import: a line above has told, with its cure
        click.echo(f"The index was not looked at: {error}", err=True)
    counts = {state: sum(check.state == state for check in checks) for state in _STATES}
    if as_json:
        for check in checks:
            write_bytes(json_line(dataclasses.asdict(check)))
        write_bytes(json_line({"summary": True, **counts}))
    else:
        rows = [tuple(map(for_display, dataclasses.astuple(check))) for check in checks]
        if on_terminal():
            click.echo(table(("", "", "", "cure"), rows))
        else:
            for row in rows:
                click.echo("\t".join(row))
        click.echo(
            f"{counted(counts[PROBLEM], 'problem')}, {counted(counts[WARNING], 'warning')}.",
            err=True,
        )
    return ERROR if counts[PROBLEM] else FOUND


_STATES = (OK, WARNING, PROBLEM)
