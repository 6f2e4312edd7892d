"""Colours of the panel's messages, for light and dark windows."""

_LIGHT = {"error": "#B3261E", "warning": "#8A5A00", "fine": "#1E6B3A", "note": "#5F6B76"}
_DARK = {"error": "#FF8A80", "warning": "#FFC76B", "fine": "#7FD49A", "note": "#A9B4BF"}
MARKS = {"error": "\u2716", "warning": "\u25b2", "fine": "\u2714", "note": "\u2022", "": ""}


_followed = []


def follow(widget):
    """Take the colours of a widget's window from now on; None lets go of it."""
    _followed[:] = [widget] if widget is not None else []


def is_dark():
    """Whether the window is dark."""
    return bool(_followed) and _followed[0].palette.window().color().lightness() < 128


def colour(severity):
    """The colour of a message."""
    return (_DARK if is_dark() else _LIGHT).get(severity, _DARK["note"])


def line(severity, text):
    """A message in HTML, with its mark."""
    from html import escape

    mark = MARKS.get(severity, "")
    return f"<span style='color:{colour(severity)}'>{mark} {escape(text)}</span>"


def frame(name, severity):
    """Style sheet of a frame that holds a message."""
    tint = {"error": "179,38,30", "warning": "200,140,20", "fine": "40,140,80"}.get(
        severity, "110,125,140"
    )
    return (
        f"#{name} {{ background-color: rgba({tint},28); border: 1px solid rgba({tint},120);"
        " border-radius: 4px; }"
    )


def drop_zone(name, active):
    """Style sheet of the drop zone."""
    edge = "#2F7DD1" if active else ("#6C7884" if is_dark() else "#9AA5B1")
    tint = "rgba(47,125,209,40)" if active else "rgba(127,127,127,18)"
    return f"#{name} {{ border: 2px dashed {edge}; border-radius: 8px; background-color: {tint}; }}"


PRIMARY = (
    "QPushButton { background-color: #1F6FBF; color: white; font-weight: bold; border: none;"
    " border-radius: 4px; padding: 7px 14px; }"
    "QPushButton:hover { background-color: #2A80D6; }"
    "QPushButton:focus { border: 2px solid #9CC9F5; padding: 5px 12px; }"
    "QPushButton:disabled { background-color: #8C98A4; color: #E3E7EB; }"
)
