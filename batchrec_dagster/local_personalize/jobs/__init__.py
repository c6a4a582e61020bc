"""The work in the background: a worker's threads take jobs from the catalog and run them."""
