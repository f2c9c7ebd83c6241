"""What a new container is made of.

host.py     the embedded image `host`: the host's /usr, and little files of its own
ranges.py   ranges of user ids that no other container has
"""
