"""Promises of the launch section."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from regatta.config.launch import LaunchSection, time_minutes
from regatta.config.strict_yaml import read_yaml


@pytest.mark.parametrize(
    ("text", "minutes"),
    [
        # The forms that the manual of sbatch lists.
        ("90", 90),
        ("90:00", 90),
        ("90:30", 91),
        ("4:00:00", 240),
        ("1-0", 1440),
        ("1-12", 2160),
        ("1-12:30", 2190),
        ("7-00:00:00", 10080),
        ("infinite", 0),
        ("", 0),
        ("-5", 0),
    ],
)
def test_time_limits_are_read_as_sbatch_reads_them(text: str, minutes: int):
    assert time_minutes(text) == minutes


def test_a_launch_section_in_a_file_means_what_it_says():
    content = read_yaml("on: slurm\ntime: 4:00:00\nshare: true\n", where="here")
    launch = LaunchSection.model_validate(content)
    assert (launch.on, launch.time, launch.share) == ("slurm", "4:00:00", True)
    assert LaunchSection.model_validate({"time": 90}).time == "90"


@pytest.mark.parametrize(
    "options",
    [
        {"dependency": "afterok:1"},
        {"depend": "afterok:1"},
        {"wrap": "rm -rf /"},
        {"export": "ALL,LD_PRELOAD=/tmp/x.so"},
        {"comment": "two\n#SBATCH --uid=0"},
        {"Output": "x"},
        {"gpus": 2},
    ],
)
def test_options_that_are_not_left_to_a_study_are_refused(options: dict[str, str]):
    with pytest.raises(ValidationError):
        LaunchSection.model_validate({"slurm_options": options})


def test_other_options_pass():
    options = {"reservation": "vision", "exclude": "n7", "exclusive": True, "nice": 10}
    assert LaunchSection.model_validate({"slurm_options": options}).slurm_options == options
