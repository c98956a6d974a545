"""From results to tables, figures and what they say."""
