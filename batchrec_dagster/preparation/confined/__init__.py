"""Conversion of foreign files in complex formats, in a child process within limits of the kernel.

Reading workbooks, Parquet files, arrays of JSON and Delta tables takes large libraries or much
memory. A file can be made so that a few bytes unfold to gigabytes, or so that it crashes a library.
A check of the file before the read would have to believe the sizes that the file itself states.
Instead, `reader.py` starts a child process, `child.py`. The kernel stops the child when it takes
too much memory, writes too large a file or computes for too long. The child gets the paths of
files, and writes plain text or Parquet. `conversions.py` has the conversion of each format. The
child gets no credentials, and needs no network.
"""
