"""The import into Personalize, the trainings, their records and costs."""
