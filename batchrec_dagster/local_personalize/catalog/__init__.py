"""Resources of a local Personalize, their kinds and statuses, and the folder of their data."""
