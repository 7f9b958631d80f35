"""What Pierhead promises, one sentence a test."""
