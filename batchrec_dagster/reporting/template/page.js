"use strict";
// What every page does: the button for dark colours, the marked link, and folds that open by links.
(() => {
  const theme = document.getElementById("theme");
  let dark = matchMedia("(prefers-color-scheme: dark)").matches;
  const showTheme = () => {
    theme.setAttribute("aria-pressed", String(dark));
    theme.textContent = `Dark: ${dark ? "on" : "off"}`;
  };
  theme.hidden = false;
  showTheme();
  theme.addEventListener("click", () => {
    dark = !dark;
    document.documentElement.dataset.theme = dark ? "dark" : "light";
    showTheme();
  });

  // The link to the section in view is marked: the last section that reaches the line below.
  const bar = document.getElementById("bar");
  const links = new Map([...bar.querySelectorAll("li a")].map((link) => [document.querySelector(link.hash), link]));
  const sections = [...links.keys()];
  const reaching = new Set();
  let isAtEnd = false;
  // The section that a link led to, and where the page stood then. It stays marked until the reader
  // scrolls, because a short section near the end of the page cannot reach the line.
  let target = null, targetPosition = 0;
  function markLink() {
    if (Math.abs(scrollY - targetPosition) > 2) target = null;
    const section = target ?? (isAtEnd ? sections.at(-1) : scrollY < 2 ? sections[0] : sections.findLast((candidate) => reaching.has(candidate)));
    // Between two sections, the one before stays marked.
    if (section === undefined) return;
    for (const [candidate, link] of links) {
      if (candidate !== section) link.removeAttribute("aria-current");
      else if (!link.hasAttribute("aria-current")) {
        link.setAttribute("aria-current", "true");
        if (bar.scrollWidth > bar.clientWidth) bar.scrollTo({ left: link.offsetLeft - bar.clientWidth / 2 });
      }
    }
  }
  const lineObserver = new IntersectionObserver((entries) => {
    for (const entry of entries) reaching[entry.isIntersecting ? "add" : "delete"](entry.target);
    markLink();
  }, { rootMargin: "-20% 0px -79% 0px" });
  sections.forEach((section) => lineObserver.observe(section));
  new IntersectionObserver(([entry]) => {
    isAtEnd = entry.isIntersecting && scrollY > 0;
    markLink();
  }, { threshold: 0.9 }).observe(document.querySelector("footer"));

  function followAddress() {
    const element = document.getElementById(location.hash.slice(1));
    if (element === null) return;
    let isFolded = false;
    for (let fold = element.closest("details"); fold; fold = fold.parentElement.closest("details")) {
      isFolded ||= !fold.open;
      fold.open = true;
    }
    if (isFolded) element.scrollIntoView();
    target = links.has(element) ? element : null;
    targetPosition = scrollY;
    markLink();
  }
  addEventListener("hashchange", followAddress);
  addEventListener("load", followAddress);

  // What is folded would be missing on paper.
  let folded = [];
  addEventListener("beforeprint", () => {
    folded = [...document.querySelectorAll("details:not([open])")];
    folded.forEach((details) => (details.open = true));
  });
  addEventListener("afterprint", () => folded.forEach((details) => (details.open = false)));
})();
