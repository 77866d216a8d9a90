"""Reader of Parquet files."""

from collections.abc import Iterator

from datatrove.data import Document

from jobs.data.readers.columns import conclude, fault_of_error, fault_of_schema, read_column
from jobs.data.readers.intake import Intake
from launcher.recipe.sources import ParquetSource

_ROWS = 4
"""Rows at a time: a text that stands once in the file is copied for each of them."""
_BUFFER_BYTES = 2**18


def read_parquet(intake: Intake, source: ParquetSource) -> Iterator[Document]:
    """Give the values of the source's column in order; other columns are not read.

    Held at a time are a page of the column, its dictionary, and a few rows. pyarrow sets no bound to a
    page, which the format lets grow to 2 GiB; writers make pages of about 1 MiB unless one text is larger.
    """
    import pyarrow
    import pyarrow.parquet

    rows, misfit, fault = 0, "", ""
    with intake.seekable() as file:
        try:
            table = pyarrow.parquet.ParquetFile(file, pre_buffer=False, buffer_size=_BUFFER_BYTES)
            rows = table.metadata.num_rows
            misfit = fault_of_schema(table.schema_arrow, source.column)
            if not misfit:
                batches = table.iter_batches(_ROWS, columns=[source.column], use_threads=False)
                yield from read_column(intake, (batch.column(0) for batch in batches))
        except (pyarrow.ArrowException, UnicodeError, OSError) as error:
            fault = fault_of_error(error)
    conclude(intake, rows, fault, misfit)
