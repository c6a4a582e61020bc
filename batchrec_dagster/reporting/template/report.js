
"use strict";
(() => {
  const MOST_MATCHES = 24;
  const element = (id) => document.getElementById(id);
  const made = (name, text, kind) => {
    const node = document.createElement(name);
    if (text !== undefined) node.textContent = text;
    if (kind) node.className = kind;
    return node;
  };
  // A title may be written from right to left: isolated, it leaves the words around it in order.
  const named = (number) => {
    const [id, title] = data.items[number];
    const node = made("bdi", title === null ? id : title);
    if (title !== null) node.title = `item ${id}`;
    return node;
  };
  const day = (days) => {
    const date = new Date(days * 86400000);
    return Number.isNaN(date.getTime()) ? "" : date.toISOString().slice(0, 10);
  };
  const number = (value) => value.toLocaleString("en");

  const data = JSON.parse(element("people-data").textContent);
  let chosen = 0;
  let found = "";

  function entry(mark, item) {
    const row = made("li");
    const body = made("div");
    body.append(named(item));
    row.append(made("span", mark, "mark"), body);
    return [row, body];
  }

  function history(flat) {
    const list = element("history");
    list.replaceChildren();
    for (let i = 0; i < flat.length; i += 2) list.append(entry(day(flat[i + 1]), flat[i])[0]);
    if (!flat.length) list.append(made("li", "Nothing yet: what they get is what most people like."));
  }

  function recommended(flat, known) {
    const list = element("recommended");
    list.replaceChildren();
    for (let i = 0; i < flat.length; i += 3) {
      const [row, body] = entry(String(i / 3 + 1), flat[i]);
      const because = flat[i + 1];
      const why = made("span", undefined, "why");
      if (because >= 0) {
        const of = data.items[because][2];
        why.append(
          "with ", named(because),
          `: ${number(flat[i + 2])} of its ${number(of)} users also have this`
        );
      } else if (known) {
        why.append("nothing in their history has been had together with this");
      }
      if (why.hasChildNodes()) body.append(why);
      list.append(row);
    }
  }

  function show(place) {
    chosen = place;
    const [user, known, had, list] = data.people[place];
    element("person-name").replaceChildren("User ", made("bdi", user));
    element("found").replaceChildren(`${found}; user `, made("bdi", user), " is shown below");
    element("person-known").textContent = known === 1 ? "1 interaction" : `${number(known)} interactions`;
    history(had);
    recommended(list, known > 0);
    for (const button of element("matches").querySelectorAll("button")) {
      button.setAttribute("aria-current", String(Number(button.value) === place));
    }
  }

  function search() {
    const wanted = element("find").value.trim().toLowerCase();
    const places = [];
    data.people.forEach(([user], place) => {
      const id = user.toLowerCase();
      if (id.includes(wanted)) places.push([id === wanted ? 0 : id.startsWith(wanted) ? 1 : 2, place]);
    });
    places.sort((one, other) => one[0] - other[0] || one[1] - other[1]);
    const matches = element("matches");
    matches.replaceChildren();
    for (const [, place] of places.slice(0, MOST_MATCHES)) {
      const button = made("button");
      button.type = "button";
      button.value = String(place);
      button.append(made("bdi", data.people[place][0]));
      button.addEventListener("click", () => show(place));
      const item = made("li");
      item.append(button);
      matches.append(item);
    }
    const more = places.length > MOST_MATCHES ? `, the first ${MOST_MATCHES} are listed` : "";
    found = places.length === 1 ? "1 user found" : `${number(places.length)} users found${more}`;
    element("person").hidden = !places.length;
    if (places.length) show(wanted ? places[0][1] : chosen);
    else {
      const sampled = "sampled" in element("browser").dataset;
      element("found").replaceChildren(
        sampled ? "No user of this sample has " : "No user has ", made("bdi", wanted),
        sampled ? " in their id; batchrec show finds all users" : " in their id"
      );
    }
  }

  if (data.people.length) {
    element("browser").hidden = false;
    element("find").addEventListener("input", search);
    element("search").addEventListener("submit", (event) => event.preventDefault());
    element("another").addEventListener("click", () => {
      element("find").value = "";
      chosen = Math.floor(Math.random() * data.people.length);
      search();
    });
    search();
  }

  const theme = element("theme");
  let dark = matchMedia("(prefers-color-scheme: dark)").matches;
  const tell = () => theme.setAttribute("aria-pressed", String(dark));
  theme.hidden = false;
  tell();
  theme.addEventListener("click", () => {
    dark = !dark;
    document.documentElement.dataset.theme = dark ? "dark" : "light";
    tell();
  });

  // On paper nothing can be unfolded.
  let folded = [];
  addEventListener("beforeprint", () => {
    folded = [...document.querySelectorAll("details:not([open])")];
    folded.forEach((details) => (details.open = true));
  });
  addEventListener("afterprint", () => folded.forEach((details) => (details.open = false)));
})();
