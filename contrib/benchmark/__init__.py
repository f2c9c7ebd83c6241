"""Benchmarks of lxcd beside what else starts containers here; `contrib/bench` runs them.

    __main__    the command: options in, table and JSON out
    options     what was asked for
    warden      gives the run a network and mounts of its own; ends and removes whatever it leaves
    inside      the run itself, in there: one stage after the other
    starts, runs, execs, networks, memory, restart, statistics, bombs   the stages
    daemon, stock, floor, others    the contestants; floor.c is the measuring rod
    shape       whether what they started is the same
    containers  root file systems and configurations
    commands    processes, timed
    facts       what machine this is
    trees, processes   what the kernel shows of them
    report      JSON and the table
    figures     numbers, targets, verdicts; pure

Imports go down this list. Nothing here knows a path of a machine: all is made below one temporary
directory.
"""
