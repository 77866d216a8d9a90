"""Whether each name that the sources of a recipe say is in their records, once all files have been read.

One array element sees its own files only, and a value may occur in those of another.
"""

from collections import Counter
from collections.abc import Iterator, Sequence

from jobs.data.corpus.file_list import FileList
from jobs.data.corpus.source_file import ProcessedFile
from launcher.errors import LauncherError
from launcher.recipe.names import names_in
from launcher.recipe.sections.text_sources import MedlineSource, Source


def check_names(files: FileList, processed: Sequence[ProcessedFile]) -> None:
    """Refuse names that nothing has.

    Args:
        files: The file list.
        processed: The record of each file.

    Raises:
        LauncherError: says which, and what there is.
    """
    faults = []
    for number, source in enumerate(files.recipe.sources):
        if not (named := names_in(source)):
            continue
        there = _count(_files_of(source, files, processed))
        if there is not None and (fault := named.fault(there, files.recipe.data_use)):
            faults.append(f"sources.{number}.{named.key}: {fault}")
    if faults:
        raise LauncherError("\n".join(faults))


def _files_of(source: Source, files: FileList, processed: Sequence[ProcessedFile]) -> Iterator[ProcessedFile]:
    """Give a source's files; baseline and updates of MEDLINE are one collection, whether or not they are one source."""
    for (_, its), one in zip(files.sources, processed, strict=True):
        if its == source or (isinstance(source, MedlineSource) and isinstance(its, MedlineSource) and its.languages):
            yield one


def _count(parts: Iterator[ProcessedFile]) -> Counter[str] | None:
    """Add up the values of files; None if those of one were not counted."""
    total = Counter[str]()
    for part in parts:
        if part.values is None:
            return None
        total.update(part.values)
    return total
