"""What every other package uses: errors, files, locks, random streams, the machine and its processes."""
