"""``python -m convlstm`` is the ``convlstm`` command."""

import sys

from convlstm.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
