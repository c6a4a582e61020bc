"""What `batchrec` can be told: a module for each command. Heavy imports wait until it runs."""
