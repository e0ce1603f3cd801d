"""The operators' kernels: the reference implementation, and C++ for the CPU."""

if __name__ != "starquant_fx.kernels":
    # transformers probes for an optional package of this name with a plain import, which must
    # therefore succeed; nothing can be taken from it, though.
    __path__ = []

    def __getattr__(name: str) -> object:
        if name.startswith("__"):
            raise AttributeError(name)
        raise ImportError(f"import it as 'starquant_fx.kernels', not {__name__!r}", name=__name__)
