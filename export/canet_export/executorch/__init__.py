"""ExecuTorch: one program (.pte) with a method per route, lowered to XNNPACK."""
