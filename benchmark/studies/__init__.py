"""Study files shipped with lrbench: one TOML a study. Data only."""
