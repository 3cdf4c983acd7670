"""Colours and letters of Gradio's own components; ``static/page.css`` has those of ours.

Where Gradio's choice is too pale to be read (WCAG asks for a contrast of 4.5), another one of the
same palette stands here.
"""

from __future__ import annotations

import gradio as gr

FONTS = ("system-ui", "-apple-system", "Segoe UI", "Roboto", "Helvetica Neue", "sans-serif")
MONO = ("ui-monospace", "SFMono-Regular", "Menlo", "Consolas", "monospace")


def page_theme() -> gr.themes.Base:
    """The theme: the system's own letters, so that nothing is fetched."""
    theme: gr.themes.Base = gr.themes.Base(
        primary_hue=gr.themes.colors.indigo,
        neutral_hue=gr.themes.colors.slate,
        radius_size=gr.themes.sizes.radius_md,
        font=FONTS,
        font_mono=MONO,
    )
    # As --cs-ground, --cs-soft, --cs-accent and --cs-accent-ink of static/page.css.
    theme.set(
        body_background_fill="#ffffff",
        body_background_fill_dark="#0e1116",
        body_text_color_subdued="#535b66",
        body_text_color_subdued_dark="#a4adba",
        block_info_text_color="#535b66",
        block_info_text_color_dark="#a4adba",
        input_placeholder_color="#535b66",
        input_placeholder_color_dark="#a4adba",
        link_text_color="#4338ca",
        link_text_color_dark="#a5b0ff",
        button_primary_background_fill="#4338ca",
        button_primary_background_fill_hover="#3730a3",
        button_primary_text_color="#ffffff",
        button_primary_background_fill_dark="#a5b0ff",
        button_primary_background_fill_hover_dark="#c7cdff",
        button_primary_text_color_dark="#10131f",
    )
    return theme
