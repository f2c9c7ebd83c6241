"""The article, executed: `contrib/article` runs it from end to end and says where it differs.

__main__    the command: gives the run a machine of its own, shows what comes of it, cleans up
inside      the run, inside
stage       that machine: its files, its network, another machine on the segment, lxcd
terminal    somebody who sits at a terminal
image       the disk image of a virtual machine; `guest/` is what its root file system consists of
texts       the article's configuration texts
table       the article's steps: what is typed, what it shows, what must hold
preparing, application, system, limits, unprepared
            what each step does here
preparations
            what the article has to prepare, and whether lxcd needs it
"""
