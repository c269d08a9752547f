"""What a package is: manifest, archive, verification, golden rows."""
