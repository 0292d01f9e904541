"""medd: a batch classifier daemon for X-rays, beside a PACS.

It supports a reader and replaces none. Nothing heavy is imported here: plugins do ``from medd import hookimpl``.
"""

import pluggy

__version__ = "0.1.0"

#: Marks a function of a plugin as the implementation of one of the hooks in `medd.hookspecs`.
hookimpl = pluggy.HookimplMarker("medd")

#: Written on, under or into everything medd produces.
DISCLAIMER = "Research use only. Not for diagnosis. Supports a reader and replaces none."
