"""The machine that a run is on: locks, signals, several processes, progress."""
