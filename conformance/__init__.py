"""The official conformance suite of the OCI distribution spec, run against every variant of Pierhead."""
