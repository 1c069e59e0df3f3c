"""From scores to thresholds, verdicts and metrics: NumPy alone, JAX is not needed."""
