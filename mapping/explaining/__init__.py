"""Why a chip is less accurate than its network: layers, sources of error, and what helps, each measured."""
