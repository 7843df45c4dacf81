"""What a trace counts as living, against sums that are made by hand: bytes of storages, of which
kind, and when they go."""

import torch

from onnuri.profile.trace import Trace


def test_a_storage_counts_once_as_what_it_was_last_and_no_longer_once_it_is_gone():
    with Trace() as counted:
        x = torch.ones(100)
        view = x.view(10, 10)[2:]
        assert counted.living == {"activations": 400} and view.numel() == 80
        counted.hold([x], "parameters")
        assert +counted.living == {"parameters": 400} and counted.peak == 400
        y = x * 2
        assert +counted.living == {"parameters": 400, "activations": 400} and counted.peak == 800
        del y
        assert +counted.living == {"parameters": 400}
        x.add_(1)
        assert +counted.living == {"parameters": 400} and counted.peak == 800


def test_a_storage_that_is_emptied_and_filled_again_counts_as_gathered():
    with Trace() as counted:
        x = torch.ones(100)
        counted.hold([x], "parameters")
        x.untyped_storage().resize_(0)
        assert +counted.living == {}
        x.untyped_storage().resize_(400)
        assert +counted.living == {"gathered": 400} and counted.peak == 400
        x.untyped_storage().resize_(800)
        x.untyped_storage().resize_(1200)
        assert +counted.living == {"gathered": 1200} and counted.peak == 1200
        del x
        assert +counted.living == {}


def test_a_part_of_the_step_knows_what_lived_most_in_it():
    with Trace() as counted:
        kept = torch.ones(10)
        counted.begin(("forward", 0))
        gone = kept + torch.ones(10)
        del gone
        counted.begin(("forward", 1))
        assert counted.windows["start", 0].peak == counted.windows["forward", 1].peak == 40
        middle = counted.windows["forward", 0]
        assert +middle.most == +middle.at_peak == {"activations": 120}
        assert (
            counted.peak == 120
            and counted.at_peak["activations"] == 120
            and counted.at_peak["parameters"] == 0
        )
