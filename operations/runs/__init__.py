"""The life of a run, as people shape it: ``fl-run`` asks a running aggregator for something."""
