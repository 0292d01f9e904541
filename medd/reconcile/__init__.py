"""``medd reconcile``: do rows and files say the same, and does every image have all that it should?

Beside a daemon at work nothing is taken for broken that is only on its way: what belongs together is committed
together, so each question is one statement, which sees one moment; a file may be young; and before anything is mended
it is asked for once more, in the transaction that mends it.
"""

from medd.reconcile.check import Check, Scope
from medd.reconcile.run import CHECKS, reconcile

__all__ = ["CHECKS", "Check", "Scope", "reconcile"]
