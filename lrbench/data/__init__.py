"""From files on disk, or from a seed, to pixels and labels."""
