"""Studies: suites run together, claims decided on their results, and one page for each study."""
