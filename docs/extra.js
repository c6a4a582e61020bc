// Tables that are wider than the window can be scrolled with the keyboard.
document$.subscribe(() =>
  document.querySelectorAll(".md-typeset__scrollwrap").forEach((wrap) => (wrap.tabIndex = 0)),
);
// Long names in tables may break behind an underscore, a dot or a slash, and nowhere else.
document$.subscribe(() =>
  document.querySelectorAll(".md-typeset td :is(code, a:not(:has(*)))").forEach((name) => {
    name.innerHTML = name.innerHTML.replace(/([_./])(?=\w)/g, "$1<wbr>");
  }),
);
