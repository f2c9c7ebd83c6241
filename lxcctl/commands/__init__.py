"""The verbs, one file per family.

Each file has a table `VERBS`: verb -> (adds its options to the parser, runs it and returns the exit
status). It is imported only for its own verbs; grpc and `lxcd.v1` are imported by the functions
that call, after the parsing.
"""
