"""Reader of Hugging Face datasets on disk: the Arrow streams that `Dataset.save_to_disk` writes.

https://arrow.apache.org/docs/format/Columnar.html#ipc-streaming-format
"""

import io
from collections.abc import Iterator
from typing import TYPE_CHECKING

from datatrove.data import Document

from jobs.data.readers.arrow_columns import conclude, fault_of_error, fault_of_schema, read_column
from jobs.data.readers.source_stream import SourceStream
from launcher.recipe.sections.text_sources import DatasetSource

if TYPE_CHECKING:
    import pyarrow as pa

_END = b"\xff\xff\xff\xff\0\0\0\0"


def read_dataset(stream: SourceStream, source: DatasetSource) -> Iterator[Document]:
    """Give the values of the source's column in order. The file is mapped, so reading takes no memory."""
    import pyarrow as pa

    with stream.open_seekable() as file:
        rows, mismatch, fault = 0, "", ""
        try:
            with pa.memory_map(str(stream.path)) as mapped:
                arrow = pa.ipc.open_stream(mapped)
                stream.count_values(arrow.schema.names)
                if mismatch := fault_of_schema(arrow.schema, source.column):
                    rows = sum(batch.num_rows for batch in arrow)
                else:
                    yield from read_column(stream, _arrays(mapped, arrow.schema.get_field_index(source.column), file))
                    fault = _fault_of_end(file)
        except (pa.ArrowException, UnicodeError, OSError) as error:
            fault = fault_of_error(error)
        conclude(stream, rows, fault, mismatch)


def _arrays(mapped: "pa.MemoryMappedFile", index: int, file: io.BufferedReader) -> Iterator["pa.Array"]:
    """Give one column of each batch, and move `file` along to show how much has been read."""
    import pyarrow as pa

    mapped.seek(0)
    options = pa.ipc.IpcReadOptions(included_fields=[index], use_threads=False)
    as_bytes = {pa.string(): pa.binary(), pa.large_string(): pa.large_binary(), pa.string_view(): pa.binary_view()}
    for batch in pa.ipc.open_stream(mapped, options=options):
        array = batch.column(0)
        # Offsets must not point out of the file. As bytes, since bad UTF-8 is an error of one record only.
        array.view(as_bytes.get(array.type, array.type)).validate(full=True)
        yield array
        file.seek(mapped.tell())
    file.seek(mapped.tell())


def _fault_of_end(file: io.BufferedReader) -> str:
    # pyarrow takes the end of a truncated file for the end of the stream.
    file.seek(max(0, file.tell() - len(_END)))
    return "" if file.read(len(_END)) == _END else "it ends early"
