"""The servers, the engine, the clients and the command line of mplug-serve."""
