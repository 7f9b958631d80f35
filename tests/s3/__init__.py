"""Tests of the S3 driver, against a real SeaweedFS."""
