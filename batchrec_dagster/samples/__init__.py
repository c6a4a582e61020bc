"""The generated demo data and the published MovieLens data sets."""
