"""The HTTP service: detectors behind /predict, the Open Inference Protocol, health and metrics."""
