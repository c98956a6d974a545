"""Suite files shipped with lrbench: one TOML a suite. Data only."""
