"""On-disk layouts: each reader turns a folder into examples."""
