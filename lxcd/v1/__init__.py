"""The wire format of the API, made from `proto/lxcd/v1/` by `proto/generate.py`. Never edited."""
