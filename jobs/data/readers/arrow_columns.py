"""A column of text in Arrow's memory: what Parquet files and datasets on disk have in common."""

from collections import Counter
from collections.abc import Iterable, Iterator
from functools import partial
from typing import TYPE_CHECKING

from datatrove.data import Document

from jobs.data.readers.source_stream import MAX_RECORD_BYTES, SourceStream, text_of
from launcher.recipe.names import choices

if TYPE_CHECKING:
    import pyarrow as pa


def read_column(stream: SourceStream, arrays: Iterable["pa.Array"]) -> Iterator[Document]:
    """Give each value of a column as a document; rows are numbered from 1."""
    for array in arrays:
        for value in array:
            stream.count += 1
            for text in stream.parsed(stream.count, partial(_text_in, value)):
                yield Document(text, f"{stream.path.name}:{stream.count}")


def fault_of_schema(schema: "pa.Schema", column: str) -> str:
    """Say why a column of a file cannot be read as text; empty if it can."""
    import pyarrow as pa

    if schema.names.count(column) != 1:
        fix = "write the name of the one that holds the text as `column`"
        if column in schema.names:
            return f"it has several columns `{column}`; {fix}"
        return f"it has no column `{column}`; {choices([column], Counter(schema.names), '')}; {fix}"
    kind = schema.field(column).type
    kind = kind.value_type if pa.types.is_dictionary(kind) else kind
    if kind in (pa.string(), pa.large_string(), pa.string_view()):
        return ""
    return f"its column `{column}` holds {kind}, not strings"


def conclude(stream: SourceStream, rows: int, fault: str, mismatch: str) -> None:
    """Count a whole file as bad if it is corrupt or its column is not text.

    Args:
        stream: The file.
        rows: How many it says it has; 0 if it does not say.
        fault: Why it cannot be read beyond the rows read so far.
        mismatch: Why its column cannot be read as text.
    """
    records = max(stream.count, rows) if rows else None
    if fault:
        stream.corrupt_file(stream.count + 1, fault, records)
    elif mismatch:
        stream.schema_mismatch(mismatch, records)


def fault_of_error(error: Exception) -> str:
    """Say that pyarrow cannot read a file; its own message may quote the file."""
    # Its decoders raise OSError without a number. With one, the file system failed, and another attempt may succeed.
    if isinstance(error, OSError) and error.errno is not None:
        raise error
    return f"pyarrow cannot read it ({type(error).__name__})"


def _text_in(value: "pa.Scalar") -> str:
    import pyarrow as pa

    if isinstance(value, pa.DictionaryScalar):
        value = value.value
    if not value.is_valid:
        raise ValueError("has no text")
    text = value.as_buffer()
    if text.size > MAX_RECORD_BYTES:
        raise ValueError(f"is longer than {MAX_RECORD_BYTES // 2**20} MiB")
    return text_of(text.to_pybytes())
