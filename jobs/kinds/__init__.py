"""One entry a kind of recipe, under the same name."""
