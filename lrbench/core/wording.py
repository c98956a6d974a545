"""Words of messages."""


def counted(count: int, noun: str) -> str:
    """Return a count with its noun, such as `1 image` or `1,200 images`."""
    return f"{count:,} {noun}" + ("" if count == 1 else "s")
