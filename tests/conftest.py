"""Set before anything is imported: no network, and one thread a process (jobs share few cores)."""

import os

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["OMP_NUM_THREADS"] = "1"
