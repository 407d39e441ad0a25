"""The life of a run: ``fl-run`` asks a running aggregator for something, ``fl-model`` takes a model out."""
