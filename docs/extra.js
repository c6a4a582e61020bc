// Tables that are wider than the window can be scrolled with the keyboard.
document$.subscribe(() =>
  document.querySelectorAll(".md-typeset__scrollwrap").forEach((wrap) => (wrap.tabIndex = 0)),
);
