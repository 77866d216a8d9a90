"""kind: site_check - a small job that measures what a site's network and file system can do, and how it stops jobs."""

from collections.abc import Iterator
from typing import Annotated, ClassVar, Literal

from pydantic import Field
from typing_extensions import override

from launcher.recipe.base import Input, Positive
from launcher.recipe.kinds.recipe_base import RecipeBase
from launcher.recipe.quantities import Duration, Size


class SiteCheckRecipe(RecipeBase):
    """Check of a site."""

    extras: ClassVar[tuple[str, ...]] = ("train",)
    reads_text: ClassVar[bool] = False
    progress: ClassVar[Literal["items"]] = "items"
    trains: ClassVar[Literal[False]] = False
    is_tracked: ClassVar[Literal[False]] = False

    kind: Literal["site_check"]
    """Check of a site."""
    messages: Annotated[tuple[Size, ...], Field(min_length=1)] = (Size("1MiB"), Size("64MiB"), Size("512MiB"))
    """Sizes of messages between ranks, smallest first; the largest one gives the rate that `launcher plan` uses."""
    file: Size = Size("2GiB")
    """Size of the file that each node writes into the run directory, and of which another node reads it back."""
    small_files: Positive = 500
    """Small files that are made and removed."""
    wait: Duration = Duration("10min")
    """How long the first attempt waits for a stop request once everything is measured. `launcher doctor --submit` sends
    one, so that the site shows whether it stops, requeues and restarts jobs."""

    @override
    def inputs(self) -> Iterator[Input]:
        yield from ()

    @override
    def _conflicts(self) -> Iterator[str]:
        sizes = [size.bytes for size in self.messages]
        if sizes != sorted(set(sizes)):
            yield "messages: are not in order; write the smallest size first, each once"
        if self.resources.nodes * max(1, self.resources.gpus_per_node) < 2:
            yield "resources.nodes: one rank has nobody to send to; write at least 2 nodes"
