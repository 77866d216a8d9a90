"""Reader of Hugging Face datasets on disk: the Arrow streams that `Dataset.save_to_disk` writes.

https://arrow.apache.org/docs/format/Columnar.html#ipc-streaming-format
"""

import io
from collections.abc import Iterator
from typing import TYPE_CHECKING

from datatrove.data import Document

from jobs.data.readers.columns import conclude, fault_of_error, fault_of_schema, read_column
from jobs.data.readers.intake import Intake
from launcher.recipe.sources import DatasetSource

if TYPE_CHECKING:
    import pyarrow as pa

_END = b"\xff\xff\xff\xff\0\0\0\0"


def read_dataset(intake: Intake, source: DatasetSource) -> Iterator[Document]:
    """Give the values of the source's column in order.

    The file is mapped: what is read of it takes no memory unless it is compressed, as datasets' never is.
    """
    import pyarrow as pa

    with intake.seekable() as file:
        rows, misfit, fault = 0, "", ""
        try:
            with pa.memory_map(str(intake.path)) as mapped:
                stream = pa.ipc.open_stream(mapped)
                if misfit := fault_of_schema(stream.schema, source.column):
                    rows = sum(batch.num_rows for batch in stream)
                else:
                    yield from read_column(intake, _arrays(mapped, stream.schema.get_field_index(source.column), file))
                    fault = _fault_of_end(file)
        except (pa.ArrowException, UnicodeError, OSError) as error:
            fault = fault_of_error(error)
        conclude(intake, rows, fault, misfit)


def _arrays(mapped: "pa.MemoryMappedFile", index: int, file: io.BufferedReader) -> Iterator["pa.Array"]:
    """Give one column of each batch, and move `file` along, which says how much has been read."""
    import pyarrow as pa

    mapped.seek(0)
    options = pa.ipc.IpcReadOptions(included_fields=[index], use_threads=False)
    as_bytes = {pa.string(): pa.binary(), pa.large_string(): pa.large_binary(), pa.string_view(): pa.binary_view()}
    for batch in pa.ipc.open_stream(mapped, options=options):
        array = batch.column(0)
        # Offsets that point out of the file would make us read there. As bytes: bad UTF-8 is a fault of one row.
        array.view(as_bytes.get(array.type, array.type)).validate(full=True)
        yield array
        file.seek(mapped.tell())
    file.seek(mapped.tell())


def _fault_of_end(file: io.BufferedReader) -> str:
    """Say so if a stream stops without its last mark: pyarrow takes that for its end."""
    file.seek(max(0, file.tell() - len(_END)))
    return "" if file.read(len(_END)) == _END else "it ends early"
