"""Readers of what a container or an exec writes: cursors into the keeper's rings, nothing else.

    stream.py   one stream as lxcd sees it, and following it

A reader is an offset. It can be slow, go away, come back: the keeper drains all the same.
"""
