"""Makes the parts of the examples importable, as they are for the programs beside them."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2] / "examples" / "sentence_ordering"))
