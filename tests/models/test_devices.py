import pytest
import torch

from reft_interp.models.devices import available_devices, find_device, find_dtype


@pytest.mark.parametrize("given", [torch.bfloat16, "bfloat16"])
def test_a_dtype_by_itself_or_by_name(given):
    assert find_dtype(given) is torch.bfloat16


@pytest.mark.parametrize("given", ["float99", torch.int8])
def test_other_dtypes_are_refused(given):
    with pytest.raises(ValueError, match="dtype must be one of float32, bfloat16, float16, floa"):
        find_dtype(given)


@pytest.mark.parametrize("given", ["cpu", torch.device("cpu")])
def test_a_device_by_itself_or_by_name(given):
    assert find_device(given) == torch.device("cpu")


@pytest.mark.parametrize("given", ["toaster", "cuda:99"])
def test_devices_that_are_not_here_are_refused(given):
    with pytest.raises(ValueError, match=rf"torch can use here \(cpu.*got '{given}'"):
        find_device(given)


def test_the_default_device_is_one_that_is_here():
    assert str(find_device(None)).split(":")[0] in {d.split(":")[0] for d in available_devices()}
