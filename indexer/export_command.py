"""``clipsearch export``, able to copy images that are in tars and Parquet files."""

from __future__ import annotations

from typing import TYPE_CHECKING

from clipsearch.cli.export import export_command

if TYPE_CHECKING:
    from clipsearch.export_folder import ReadMember


def _member_reader() -> ReadMember:
    from indexer.containers import MemberReader

    return MemberReader().read


export = export_command(_member_reader)
