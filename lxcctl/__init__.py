"""lxcctl: the command line client of lxcd.

It speaks gRPC on the daemon's socket, prints, and leaves. What it does not do: anything to a
container by itself. Nothing of `lxcd` is imported but the generated `lxcd.v1`, and grpcio only once
the arguments are understood: most of the time that a short command takes is importing.

    __main__     finds the verb, imports its module only, turns errors into an exit status
    verbs        the table of verbs
    arguments    the parser of one verb, and the grammar of values
    channel      the connection: address, deadlines, errors of a call, patience
    errors       what went wrong, in words and as an exit status
    wire         what values of the API mean to a person: states, signals, times, exits
    output       table, json, yaml, csv
    commands     one file per family of verbs
"""

__version__ = "0.1.0"
