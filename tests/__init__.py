"""The tests of lxcd. `unit` needs nothing, `kernel` root, `system` root and a machine to itself.

Folders below this one need no `__init__.py` (pytest imports by path, mypy knows namespace packages). This one has it, so
that no `tests` package which some dependency installs by mistake is taken for ours.
"""
