"""How much longer than on a machine of today all may take here: a factor on every deadline of the tests.

An emulated machine sets it (contrib/vm/run). Nothing is measured with a deadline: only a hang reaches it.
"""

import os

PATIENCE = float(os.environ.get("LXCD_TEST_PATIENCE", "1"))
