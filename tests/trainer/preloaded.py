"""What ranks import, and how: `ranks.spawn` loads this module in the process that the ranks are forks of."""

import os

os.environ["DS_ACCELERATOR"] = "cpu"

import trainer.loop
import trainer.tasks.build  # noqa: F401
