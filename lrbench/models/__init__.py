"""Networks: creation, loading, import of other libraries' files, export."""
