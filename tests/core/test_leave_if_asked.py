"""Long reading deep inside leaves when the process was asked to stop, and only then."""

from __future__ import annotations

import os
import signal

import pytest

from regatta.core.errors import StopRequested
from regatta.core.signals import StopFlag, leave_if_asked


def test_reading_is_left_once_a_signal_came_and_while_the_flag_is_installed():
    leave_if_asked("reading")
    with StopFlag().handling() as stop:
        leave_if_asked("reading")
        os.kill(os.getpid(), signal.SIGTERM)
        with pytest.raises(StopRequested, match="stopped while reading the images"):
            leave_if_asked("reading the images")
        assert stop.exit_code == 143
    leave_if_asked("reading")
