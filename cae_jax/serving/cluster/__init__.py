"""A folder or a bucket of images scored by many machines, on Ray Data.

`job` is the driver's part and starts Ray, `worker` is what runs in an actor, `places` finds and
reads images, `table` is what comes of them, in Parquet. Ray and Arrow are imported here alone.
"""
