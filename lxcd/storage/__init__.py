"""Root file systems that are no directories.

filesystems.py   what the first bytes of a device say that it holds
partitions.py    partition tables, MBR and GPT: from bytes to a list
choice.py        which part of an image is the root
claim.py         that nobody else writes to what is about to be mounted
blocks.py        block devices, as /sys shows them
image.py         a part of an image, or a block device, as a mount that hangs nowhere
"""
