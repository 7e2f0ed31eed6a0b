"""Generated gRPC messages and stubs of mplug-serve; the .proto files lie beside them."""
