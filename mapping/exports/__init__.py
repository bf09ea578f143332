"""A chip for other programs: tables of layers, tiles and costs, and AccelForge's YAML."""
