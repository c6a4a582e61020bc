"""Amazon Personalize's own file formats: known here and nowhere else."""
