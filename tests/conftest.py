"""What every test runs under: offline, without a screen, on one thread.

Nothing is seeded here: a test that draws random numbers sets its own seed.
"""

import os
import signal

# Before torch, matplotlib or a tokenizer is imported: they read these once.
os.environ.update(
    {
        "DO_NOT_TRACK": "true",
        "HF_DATASETS_OFFLINE": "1",
        "HF_HUB_OFFLINE": "1",
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "MPLBACKEND": "Agg",
        "OMP_NUM_THREADS": "1",
        "TOKENIZERS_PARALLELISM": "false",
        "TRANSFORMERS_OFFLINE": "1",
        "WANDB_MODE": "offline",
        "WANDB_SILENT": "true",
    }
)

import torch

torch.set_num_threads(1)

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    # A shell lets what it starts in the background ignore it, and programs inherit that.
    signal.signal(signal.SIGINT, signal.default_int_handler)
