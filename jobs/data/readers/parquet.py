"""Reader of Parquet files."""

from collections.abc import Iterator

from datatrove.data import Document

from jobs.data.readers.arrow_columns import conclude, fault_of_error, fault_of_schema, read_column
from jobs.data.readers.source_stream import SourceStream
from launcher.recipe.sections.text_sources import ParquetSource

_ROWS = 4
"""Rows at a time: a text that the file holds once is copied for each of them."""
_BUFFER_BYTES = 2**18


def read_parquet(stream: SourceStream, source: ParquetSource) -> Iterator[Document]:
    """Give the values of the source's column in order; other columns are not read.

    In memory are a page of the column, its dictionary and a few rows. pyarrow does not bound pages (the format allows
    2 GiB); writers make them about 1 MiB unless one text is larger.
    """
    import pyarrow
    import pyarrow.parquet

    rows, mismatch, fault = 0, "", ""
    with stream.open_seekable() as file:
        try:
            table = pyarrow.parquet.ParquetFile(file, pre_buffer=False, buffer_size=_BUFFER_BYTES)
            rows = table.metadata.num_rows
            stream.count_values(table.schema_arrow.names)
            mismatch = fault_of_schema(table.schema_arrow, source.column)
            if not mismatch:
                # Not as dictionaries: pyarrow would keep every text of a row group (69 MiB where this takes 11).
                batches = table.iter_batches(_ROWS, columns=[source.column], use_threads=False)
                yield from read_column(stream, (batch.column(0) for batch in batches))
        except (pyarrow.ArrowException, UnicodeError, OSError) as error:
            fault = fault_of_error(error)
    conclude(stream, rows, fault, mismatch)
