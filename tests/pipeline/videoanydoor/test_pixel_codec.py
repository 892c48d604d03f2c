"""Folded pixels: exact both ways, unit scale, saved and loaded like every network."""

from __future__ import annotations

import pytest
import torch

from pipeline.videoanydoor.pixel_codec import PixelCodec
from pipeline.videoanydoor.scales import latent_stride


def test_decoding_undoes_encoding_exactly() -> None:
    codec = PixelCodec()
    pictures = torch.rand(3, 3, 16, 24, generator=torch.Generator().manual_seed(0)) * 2 - 1
    latents = codec.encode(pictures).latent_dist.mode()
    assert latents.shape == (3, 48, 4, 6)
    assert torch.equal(codec.decode(latents, return_dict=False)[0], pictures)
    assert torch.equal(codec.decode(latents).sample, pictures)
    assert latents.square().sum().item() == pytest.approx(pictures.square().sum().item(), rel=1e-6)  # orthonormal


def test_convention_a_latent_is_the_block_at_its_place() -> None:
    picture = torch.zeros(1, 3, 8, 8)
    picture[..., 4:, :4] = 1
    latents = PixelCodec().encode(picture).latent_dist.mode()
    assert (latents[0, :, 1, 0] == 1).all() and latents.sum() == 48


def test_it_is_saved_and_loaded_like_every_network(tmp_path) -> None:
    codec = PixelCodec(stride=2, latent_channels=12)
    codec.save_pretrained(tmp_path)
    loaded = PixelCodec.from_pretrained(tmp_path)
    assert latent_stride(loaded.config) == 2 and torch.equal(loaded.basis, codec.basis)
    assert not any(parameter.requires_grad for parameter in codec.parameters())


def test_a_wrong_number_of_channels_is_refused() -> None:
    with pytest.raises(ValueError, match="latent_channels must be 48"):
        PixelCodec(latent_channels=4)


def test_the_stride_of_a_vae_is_its_number_of_halvings() -> None:
    assert latent_stride({"block_out_channels": (8, 8, 8, 8)}) == 8
