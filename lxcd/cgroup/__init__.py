"""The container's directories in the host's cgroup trees: version 1, version 2, or both.

    tree.py      which trees there are, and a container's directories in them
    freezer.py   freeze and thaw

Names are LXC's: `lxc.payload.NAME`, with -1, -2 … behind it where that is taken, the same in every
tree. Only directories that were made here are ever removed. Limits and statistics come later.
"""
