"""What `make bench` measures. A package, so that nobody else's `benchmarks` is taken for it."""
