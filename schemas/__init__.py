"""JSON Schemas of every artefact, shared by Python, Kotlin and Swift."""
