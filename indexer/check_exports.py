"""The records of exports of an index, without which an export cannot be taken back."""

from __future__ import annotations

from clipsearch.errors import ExportRecordError
from clipsearch.export_record import read_record
from clipsearch.store import EXPORTS
from indexer.findings import Tally

EXPORT_RECORD = "export-record"
"""The kind of a finding about the record of an export."""


def check_export_records(tally: Tally) -> None:
    """Read every record; an error for each that is damaged, and an export that is lost to undo."""
    for path in sorted((tally.index / EXPORTS).glob("*.json")):
        file = f"{EXPORTS}/{path.name}"
        try:
            size = path.stat().st_size
            read_record(path)
        except ExportRecordError as error:
            if path.exists():
                reason = str(error.__context__)
                tally.error(EXPORT_RECORD, file, f"is damaged, and cannot be undone ({reason})")
        except OSError as error:
            if path.exists():
                tally.unreadable(file, error)
        else:
            tally.files += 1
            tally.bytes += size
