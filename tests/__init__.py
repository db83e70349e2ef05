"""A package, so that ``tests.unit`` is found here: torch-fidelity installs a package of this name beside itself."""
