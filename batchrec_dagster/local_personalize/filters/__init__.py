"""Filter expressions, as batch jobs apply them to items and to users."""
