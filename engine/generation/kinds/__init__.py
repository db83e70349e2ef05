"""One file a kind of generator; each has the functions of ``engine.generation.generators.GeneratorKind``."""
