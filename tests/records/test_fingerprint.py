"""Promises of the fingerprint: every difference named with both values, nothing unsaid."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from regatta.analysis.compare import compare_study
from regatta.analysis.judged import read_judged_study
from regatta.config.expand import judging_settings, protocol_id
from regatta.config.load import dump_study
from regatta.config.schema import ProtocolSection
from regatta.core.errors import RecordError
from regatta.core.files import read_json, write_json, write_text
from regatta.records.fingerprint import (
    SETTINGS,
    SHARED_KEYS,
    UNKNOWN,
    check_known,
    check_same_conditions,
    differences,
)
from regatta.records.run_folder import StudyFolder
from tests.analysis.build import build_judged_study

SAME: dict[str, Any] = {key: f"{key} 1" for key in SHARED_KEYS}


def test_runs_that_agree_may_differ_in_weights_and_input() -> None:
    check_same_conditions({"a": {**SAME, "weights": "x"}, "b": {**SAME, "frames": 16}})


def test_every_key_that_differs_is_named_with_both_values() -> None:
    other = {**SAME, "decoder": "torchcodec 0.12", "resize": "squash", "manifest": None}
    with pytest.raises(RecordError) as caught:
        check_same_conditions({"a": SAME, "b": other, "c": SAME})
    text = str(caught.value)
    for key, value in (("decoder", "torchcodec 0.12"), ("resize", "squash"), ("manifest", None)):
        assert f"'{key}'" in caught.value.what
        assert f"{key}: a: '{key} 1' against b: {value!r}" in text
    assert "--mix-protocols" in text


def test_runs_with_one_value_in_common_share_a_row() -> None:
    other = {**SAME, "code": "2"}
    (found,) = differences({"a": SAME, "b": other, "c": other, "d": SAME})
    assert (found.first, found.other, found.other_value) == ("a", "b, c", "2")
    assert found.sentence == "judged differently: code is 'code 1' in a and '2' in b, c"


def test_settings_of_a_protocol_stand_in_place_of_their_hash() -> None:
    """Two sections that differ in an option and in the way views are averaged."""
    prints = []
    for options, average in (({"pad": "loop"}, "logit"), ({"pad": "mask"}, "probability")):
        section = ProtocolSection(name="temporal-grid", options=options)
        settings = {**judging_settings(section), "average": average}
        prints.append({**SAME, "protocol": protocol_id(section), SETTINGS: settings})
    found = differences({"a": prints[0], "b": prints[1]})
    assert [(d.key, d.first_value, d.other_value) for d in found] == [
        ("protocol.options.pad", "loop", "mask"),
        ("protocol.average", "logit", "probability"),
    ]


def test_predictions_from_before_settings_were_kept_are_compared_by_the_hash() -> None:
    new = {**SAME, SETTINGS: {"batch_size": 4}}
    assert differences({"a": SAME, "b": new}) == []
    assert [d.key for d in differences({"a": SAME, "b": {**new, "protocol": "q"}})] == ["protocol"]


def test_what_is_not_known_differs_from_nothing_and_is_refused_by_its_own_rule() -> None:
    assert differences({"a": SAME, "b": UNKNOWN}) == []
    check_known({"a": SAME})
    with pytest.raises(RecordError, match="how they were judged is not known here") as caught:
        check_known({"a": SAME, "theirs": UNKNOWN})
    assert (caught.value.where, "--mix-protocols" in str(caught.value)) == ("theirs", True)


def changed_study(path: Path, **changes: Any) -> StudyFolder:
    """A study whose second entry was judged with another decoder and another version of ours."""
    folder = build_judged_study(
        path, entries=2, samples=24, protocol="plain", compare={"replicates": 200}
    )
    run = folder.runs()[1][1]
    marker = run.predictions(protocol_id(folder.study().protocol)) / "complete.json"
    complete = read_json(marker)
    complete["fingerprint"] |= changes
    write_json(marker, complete)
    return folder


def test_mixed_protocols_meet_on_request_and_every_difference_is_a_note(tmp_path: Path) -> None:
    folder = changed_study(tmp_path, decoder="torchcodec 0.12", code="0.0.9")
    with pytest.raises(RecordError, match="'decoder', 'code' differ"):
        read_judged_study(folder)
    study = folder.study()
    compare = study.compare.model_copy(update={"mix_protocols": True})
    write_text(folder.study_yaml, dump_study(study.model_copy(update={"compare": compare})))
    first, second = (run.run_id for _, run in folder.runs())
    notes = compare_study(folder)["notes"]
    assert notes[:2] == [
        f"judged differently: decoder is 'pyav 18.1.0' in {first} and 'torchcodec 0.12' in "
        f"{second}",
        f"judged differently: code is '0.1.0' in {first} and '0.0.9' in {second}",
    ]


def test_a_study_that_was_judged_alike_has_no_such_note(tmp_path: Path) -> None:
    notes = compare_study(changed_study(tmp_path))["notes"]
    assert not [text for text in notes if "judged differently" in text or "imported" in text]
