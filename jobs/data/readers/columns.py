"""A column of text in Arrow's memory: what Parquet files and datasets on disk have in common."""

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

from datatrove.data import Document

from jobs.data.readers.intake import MAX_RECORD_BYTES, Intake, text_of

if TYPE_CHECKING:
    import pyarrow as pa


def read_column(intake: Intake, arrays: Iterable["pa.Array"]) -> Iterator[Document]:
    """Give each value of a column as a document; rows are numbered from 1."""
    for array in arrays:
        for value in array:
            intake.count += 1
            try:
                text = _text_in(value)
            except ValueError as error:
                intake.spoil(intake.count, str(error))
            else:
                yield Document(text, f"{intake.path.name}:{intake.count}")


def fault_of_schema(schema: "pa.Schema", column: str) -> str:
    """Say why a column of a file cannot be read as text; nothing if it can."""
    import pyarrow as pa

    if schema.names.count(column) != 1:
        number = "several columns" if column in schema.names else "no column"
        return f"it has {number} `{column}`; write the name of the one that holds the text as `column`"
    kind = schema.field(column).type
    kind = kind.value_type if pa.types.is_dictionary(kind) else kind
    if kind in (pa.string(), pa.large_string(), pa.string_view()):
        return ""
    return f"its column `{column}` holds {kind}, not strings"


def conclude(intake: Intake, rows: int, fault: str, misfit: str) -> None:
    """Call a file bad as a whole if it is.

    Args:
        intake: The file.
        rows: How many it says it has: what was not read of them counts as bad.
        fault: Why it cannot be read, at the row after those that were.
        misfit: Why its column cannot be read as text.
    """
    line, intake.count = intake.count + 1, max(intake.count, rows)
    if fault:
        intake.damage(line, fault)
    elif misfit:
        intake.misfit(misfit)


def fault_of_error(error: Exception) -> str:
    """Say that pyarrow could not make sense of a file. Its own words are left out: they may quote the file.

    Args:
        error: What pyarrow raised: of its own kind, a UnicodeError over a name, or, where one of its decoders
            gave up, an OSError without a number.
    """
    if isinstance(error, OSError) and error.errno is not None:
        raise error  # the file system does not answer: no fault of the data, and worth another attempt
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
