"""On-disk layouts: one reader for each way in which a data set is stored.

To add a layout, write its `[files]` record in `lrbench/config/files.py`, a module here with two functions, and one line in
`lrbench/data/layouts/registry.py`:

- `find_…(task, files, roots)` returns the data set's folder, quickly, or raises `InputError`.
- `read_…(task, files, roots)` returns `LayoutData` (classes, splits and problems) and decodes no image.
"""
