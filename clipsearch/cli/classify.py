"""``clipsearch classify``."""

from __future__ import annotations

from typing import Any

import click

from clipsearch.cli.adapt_option import adapt_option
from clipsearch.cli.filter_options import filter_options
from clipsearch.cli.fuse_option import FuseCommand, fuse_option
from clipsearch.cli.label_options import edit_options, label_options
from clipsearch.cli.output import format_options
from clipsearch.cli.places import device_option, index_option, space_option
from clipsearch.cli.ray_options import ray_options
from clipsearch.cli.votes import vote_options


@click.command(cls=FuseCommand)
@click.argument("images", nargs=-1, metavar="[IMAGE...]", type=click.Path(path_type=str))
@label_options
@edit_options
@click.option(
    "--none", "none", metavar="auto|off|THETA",
    help="Images that belong to none of the labels get none: auto (the default), by a threshold "
    "that the collection gives; off, every image gets a label; or a threshold from 0 to 1 for "
    "the column in_set. A saved set keeps its threshold.",
)  # fmt: skip
@click.option(
    "--top", type=click.IntRange(min=1),
    help="How many labels to write for each image: 1 where nothing is said, or 5 where a "
    "terminal shows a few IMAGEs.",
)  # fmt: skip
@click.option(
    "--coverage", metavar="SHARE", type=float,
    help="With a set that was taught: tell, too, the label set of every image, as many labels as "
    "it takes for the true one to be among them in SHARE of the images (0.9). Takes 200 confirmed "
    "images that were not picked for their doubt.",
)  # fmt: skip
@click.option(
    "--out", "out_path", metavar="FILE", type=click.Path(path_type=str),
    help="Write every image's label to FILE: .parquet, .csv or .json (one object a line).",
)  # fmt: skip
@click.option(
    "--fast", is_flag=True,
    help="Multiply in bfloat16 through torch where this processor is quicker at it: the same "
    "labels, probabilities to about 1 %. Worth it from millions of images and hundreds of labels.",
)  # fmt: skip
@vote_options
@adapt_option
@fuse_option
@filter_options
@ray_options
@index_option
@click.option(
    "--model", metavar="MODEL",
    help="With IMAGEs: the model, as for 'clipsearch index'; else that of the index, or one that "
    "is on this machine. Without: where the index's own model folder is now, if it has moved.",
)  # fmt: skip
@space_option
@device_option
@format_options(null=False)
@click.pass_context
def classify(context: click.Context, /, images: tuple[str, ...], **options: Any) -> int:
    """Give every image of the index one label of a set, from stored vectors alone.

    On a terminal a summary comes: label, count, share, best example. In a pipe each image
    comes as path, label and probability with tabs between them. An image that belongs to none
    of the labels gets none: a line without label and probability; see --none.

    A set that was saved remembers what it takes to score only the labels that change and the
    images that are new; the answer is the one that scoring everything gives.

    Where IMAGEs are named, files or folders of them or - for one on standard input, these are
    labelled instead, and no index is needed.

    \b
      clipsearch classify --labels "dog,cat,bird"
      clipsearch classify --labels-file animals.txt --out animals.parquet --save-as animals
      clipsearch classify --labels @animals --since 2024 --in ~/Pictures
      clipsearch classify --labels @animals --add "otter,seal" --remove dog --save-as animals
      clipsearch classify photo.jpg --labels "cat,dog,car"
    """
    if images:
        from clipsearch.cli.image_labels import classify_images

        return classify_images(context)
    from clipsearch.cli.index_labels import classify_index

    return classify_index(**options)
