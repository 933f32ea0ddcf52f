"""`Stop`: Ctrl-C and SIGTERM ask a training to stop after the step that runs, when it can save everything."""

import os
import signal
import threading

SECONDS = 20  # that a worker waits for the first one to save


class Stop:
    """While active, the first Ctrl-C or SIGTERM sets `asked`; a second one stops at once.

    Clusters send SIGTERM before they take a machine away. The exit code is then 0, since nothing is lost.

    Attributes:
        asked: whether one came.
        code: the exit code that suits it.

    Args:
        leads: whether this process saves the run. One that does not goes on with its steps, or the others
            would wait for it, and leaves some seconds later.
    """

    def __init__(self, leads=True):
        self.leads, self.asked, self.code = leads, False, 0
        self._old = {}

    def __enter__(self):
        if threading.current_thread() is threading.main_thread():
            self._old = {
                number: signal.signal(number, self._ask) for number in (signal.SIGINT, signal.SIGTERM)
            }
        return self

    def __exit__(self, *exception):
        for number, old in self._old.items():
            signal.signal(number, old)

    def _ask(self, number, frame):
        self.code = 0 if number == signal.SIGTERM else 130
        if self.asked:
            raise KeyboardInterrupt
        self.asked = True
        if not self.leads:
            # Without the first worker this one waits in a collective operation: no exception gets there.
            timer = threading.Timer(SECONDS, os._exit, [self.code])
            timer.daemon = True
            timer.start()
