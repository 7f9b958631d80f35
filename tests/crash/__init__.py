"""What kill -9 and power cuts leave behind, checked against what was acknowledged."""
