"""The job: flags, cells, training that goes on, judging, writing."""
