"""``clipsearch vocabulary``."""

from __future__ import annotations

import dataclasses
import sys
import time
from pathlib import Path

import click

from clipsearch.cli import FOUND, INTERRUPTED, no_more_interrupts
from clipsearch.cli.output import counted, human_seconds, json_line, write_bytes
from clipsearch.cli.places import device_option, existing_index, index_option, moved_model_option
from clipsearch.cli.text_progress import TextProgress


@click.command()
@click.argument("file", type=click.Path(path_type=str, allow_dash=True))
@click.option(
    "--templates",
    metavar="NAME",
    help='simple (7 prompts a word), openai (80), none, a file, or one like "a sketch of a {}". '
    'The default is "a photo of a {}".',
)
@index_option
@moved_model_option
@device_option
@click.option("--json", "as_json", is_flag=True, help="Print the account as one JSON object.")
def vocabulary(
    file: str,
    templates: str | None,
    index_path: str | None,
    model: str | None,
    device: str | None,
    as_json: bool,
) -> int:
    """Encode every line of FILE as a word, and keep the vectors for all indexes of that model.

    Whatever asks for those prompts later has them at once. Blank lines and lines that begin with
    # are passed over; - is standard input. After an interruption the same command goes on.

    \b
      clipsearch vocabulary nouns.txt
      clipsearch vocabulary birds.txt --templates simple
    """
    from clipsearch.background_words import BACKGROUND_TEMPLATE
    from clipsearch.image_index import open_index
    from clipsearch.prompts import text_lines
    from clipsearch.vocabulary import keep_vocabulary

    words = text_lines(sys.stdin.buffer.read() if file == "-" else Path(file), "words")
    begin = time.perf_counter()
    texts = open_index(existing_index(index_path), model=model, device=device).text_vectors()
    progress = TextProgress()
    texts.on_progress = progress
    try:
        kept = keep_vocabulary(words, texts, templates or BACKGROUND_TEMPLATE)
    except KeyboardInterrupt:
        no_more_interrupts()
        progress.close()
        click.echo(
            f"Interrupted. {counted(progress.done, 'prompt')} that this run encoded "
            f"{'is' if progress.done == 1 else 'are'} kept; the same command goes on from there.",
            err=True,
        )
        return INTERRUPTED
    finally:
        progress.close()
    seconds = time.perf_counter() - begin
    if as_json:
        document = {**dataclasses.asdict(kept), "space": texts.space.id, "seconds": seconds}
        write_bytes(json_line(document))
    else:
        click.echo(
            f"{counted(kept.words, 'word')}, {counted(kept.prompts, 'prompt')}: {kept.known:,} "
            f"known, {kept.encoded:,} encoded in {human_seconds(seconds)}."
        )
    return FOUND
