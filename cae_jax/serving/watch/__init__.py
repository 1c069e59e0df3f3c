"""Watching a folder: images that a camera writes are judged once each, and put away."""
