"""The code interpreter: runs pieces of code in contexts that remember, and streams what they print and show.

    app.py        the HTTP side: routes, the stream of one execution
    contexts.py   contexts by id, the default ones, who waits for whom
    wire.py       the lines of a stream, and what mime types are called in them
    jupyter.py    kernels that speak Jupyter's protocol: Python, R
    pipe.py       kernels of our own, over a socket: JavaScript and TypeScript, bash
    languages.py  which language is run by what

The programs of the kernels lie beside this package, in `kernels/`; they run outside of it, in their own processes.
"""
