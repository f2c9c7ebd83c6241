"""The wire format of the API, made by `proto/generate.py`. Never edited."""
