"""Tasks and scripts to begin with. A package, so that nobody else's `examples` is taken for it."""
