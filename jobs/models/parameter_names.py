"""Names of parameters without what wrappers add to them."""

_WRAPPERS = ("_checkpoint_wrapped_module.",)


def plain_name(name: str) -> str:
    """The name of a parameter without what wrappers add to it."""
    for wrapper in _WRAPPERS:
        name = name.replace(wrapper, "")
    return name
