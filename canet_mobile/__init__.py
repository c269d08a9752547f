"""canet-mobile: train CANet (ICDM 2022), export one weight-shared package, prove it on the device."""

__version__ = "0.1.0"
