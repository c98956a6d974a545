"""Task files shipped with lrbench: one TOML a task. Data only."""
