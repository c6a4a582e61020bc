"""What `batchrec` can be told: a module for each command, whose heavy imports wait until it runs."""
