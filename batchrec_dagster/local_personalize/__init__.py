"""Amazon Personalize's batch API on this machine: same requests, same answers, real models."""
