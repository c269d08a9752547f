"""The log that ships with the package; see README.txt for where it comes from and its licence."""
