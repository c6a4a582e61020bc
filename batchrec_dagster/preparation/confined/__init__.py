"""Foreign files of complex formats, converted in a child process within limits of the kernel.

Workbooks, Parquet files, arrays of JSON and Delta tables are read by large libraries or into much
memory. A file can be made so that a few bytes of it unfold to gigabytes, or crash such a library.
Checking each format before it is read would mean believing what the file says of itself. Instead,
`reader.py` starts a child process, `child.py`, which the kernel stops when it takes too much
memory, writes too large a file or computes for too long. The child gets the paths of files, and
writes plain text or Parquet: `conversions.py` has the table of what it makes of each format. It
gets no credentials, and needs no network.
"""
