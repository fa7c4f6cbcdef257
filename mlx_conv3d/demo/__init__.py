"""The demo's model, its trained weights and a clip of film: see CREDITS.md beside this file."""

from __future__ import annotations

from pathlib import Path

CLIP = Path(__file__).with_name("clip.mp4")
CHECKPOINT = Path(__file__).with_name("video_vae.safetensors")
