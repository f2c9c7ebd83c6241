"""LXC's own commands as clients of lxcd: the directory `bin/` beside this, to put in front of PATH.

    __main__    which command, and how it ends
    command     what a command is; what they all know: options of all, eras, exit statuses
    options     getopt_long(3), as LXC uses it
    regex       regex(7), as LXC uses it
    words       texts that a command of LXC shows; pure
    title       what ps shows of us
    the others  a command each, or two

Two eras: that of LXC 7.0, and with LXCD_COMPAT=0.7 that of 0.7. Nothing here imports anything but
grpc, lxcd.v1 and lxcctl.
"""
