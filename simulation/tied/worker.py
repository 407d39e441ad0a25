"""``fl-worker`` as a simulation starts it: it ends with the simulation, which holds the other end of its stdin."""

import os
import runpy

from simulation.tied.ending import end_with


def main() -> None:
    """The command, with the same flags; it finds its standard input empty."""
    tie = os.dup(0)
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.close(nothing)
    end_with(lambda: os.read(tie, 1))  # nobody writes: it returns when the other end closes, for whatever reason
    runpy.run_module("worker.cli", run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
