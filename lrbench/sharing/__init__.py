"""Results and snapshots that travel between workspaces: as folders, zip files and repositories of the Hugging Face Hub."""
