"""What each store, sink, source, recipe and API must do, as one class of tests for all of them."""
