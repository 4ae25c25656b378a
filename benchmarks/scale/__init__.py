"""Several processes, engines and kills against one service that grants little: `make scale`."""
