"""Transfer protocols, one module each."""
