"""The imported data of datasets, and the lines of batch jobs with their answers."""
