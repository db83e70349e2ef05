"""How the model that crosses a site's border is written: steps that are chosen by ``federation.codec``, one file each.

Lossy steps code the *update*, a model minus one that both sides have, never the weights themselves: an update is small
beside a weight, and what a step loses of it is sent later (error feedback). Steps come in one order: which entries of
the update go (``topk``), how their numbers are written (``fp16``, ``int8``), how the bytes are packed (``zstd``).
BatchNorm statistics and integers stay as they are. Free of Flower and of PyTorch: sites, server and plans use it.
"""
