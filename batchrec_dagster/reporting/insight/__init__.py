"""What is known of the lists, as facts and sentences, without HTML, a terminal or Dagster."""
