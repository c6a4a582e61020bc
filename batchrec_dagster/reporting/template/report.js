"use strict";
(() => {
  const MOST_MATCHES = 24;
  const MOST_GETTING = 25;
  const element = (id) => document.getElementById(id);
  const create = (name, text, kind) => {
    const node = document.createElement(name);
    if (text !== undefined) node.textContent = text;
    if (kind) node.className = kind;
    return node;
  };
  const data = JSON.parse(element("people-data").textContent);
  const number = (value) => value.toLocaleString("en");
  const day = (days) => {
    const date = new Date(days * 86400000);
    return Number.isNaN(date.getTime()) ? "" : date.toISOString().slice(0, 10);
  };
  // Isolate a name: one written from right to left would reorder the words around it.
  const isolated = (text) => create("bdi", text);
  const ID = 0, TITLE = 1, USERS = 2, LISTS = 3, NEAR = 4, IMAGE = 5, LINK = 6;
  const titleOf = (place) => data.items[place][TITLE] ?? data.items[place][ID];
  const safe = (address) => (/^https?:\/\//.test(address ?? "") ? address : null);

  // A button that shows the item in its own section.
  function named(place) {
    const button = create("button", undefined, "link");
    button.type = "button";
    button.append(isolated(titleOf(place)));
    if (data.items[place][TITLE] !== null) button.title = `item ${data.items[place][ID]}`;
    button.addEventListener("click", () => { items.show(place); go("item"); });
    return button;
  }

  function picture(place) {
    const address = safe(data.items[place][IMAGE]);
    if (address === null || !element("images")?.checked) return [];
    const image = create("img");
    Object.assign(image, { src: address, alt: "", loading: "lazy", referrerPolicy: "no-referrer" });
    return [image];
  }

  function pageOf(place) {
    const address = safe(data.items[place][LINK]);
    if (address === null) return [];
    const link = create("a", "page");
    Object.assign(link, { href: address, target: "_blank", rel: "noopener noreferrer" });
    link.setAttribute("aria-label", `page of ${titleOf(place)}`);
    return [" ", link];
  }

  function entry(mark, place, why) {
    const row = create("li");
    const body = create("div");
    body.append(named(place), ...pageOf(place));
    if (why) {
      const line = create("span", undefined, "why");
      line.append(...why);
      body.append(line);
    }
    row.append(create("span", mark, "mark"), ...picture(place), body);
    return row;
  }

  // Spreadsheets run cells that start like a formula, some also what follows another separator.
  const cell = (value) => {
    const text = String(value ?? "").replace(/^(?=[=+\-@\uff1d\uff0b\uff0d\uff20\t\r\n])|(?<=[;|\t\r\n]"*)(?=[=+\-@\uff1d\uff0b\uff0d\uff20])/g, "'");
    return /[",;\n\r]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text;
  };
  function download(name, rows) {
    const text = rows.map((row) => row.map(cell).join(",") + "\r\n").join("");
    const link = create("a");
    link.href = URL.createObjectURL(new Blob(["\ufeff", text], { type: "text/csv" }));
    link.download = `${name.replace(/[^\w.-]+/g, "_").slice(0, 80)}.csv`;
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 1000);
  }

  const go = (id) => element(id).scrollIntoView({ block: "start" });
  const remember = (what, id) => {
    try { history.replaceState(null, "", `#${what}=${encodeURIComponent(id)}`); } catch { /* not everywhere */ }
  };

  // A search box with its matches, and an article that shows the chosen one.
  // texts: of a place, its id and perhaps its title; weight: what stands first among equals.
  function finder(what, article, count, texts, draw, missing, weight = () => 0) {
    let chosen = -1;
    let said = "";
    const part = (name) => element(`${what}-${name}`);
    const names = Array.from({ length: count }, (_, place) => texts(place).map((t) => t.toLowerCase()));

    function show(place, byHand = true) {
      chosen = place;
      draw(place);
      const name = texts(place).at(-1);
      part("found").replaceChildren(`${said}; ${what} `, isolated(name), ", shown below");
      if (byHand) remember(what, texts(place)[0]);
      for (const button of part("matches").querySelectorAll("button")) {
        button.setAttribute("aria-current", String(Number(button.value) === place));
      }
    }

    function search(byHand = true) {
      const wanted = part("text").value.trim().toLowerCase();
      const places = [];
      names.forEach((own, place) => {
        if (own.some((name) => name.includes(wanted))) {
          const rank = own.includes(wanted) ? 0 : own.some((name) => name.startsWith(wanted)) ? 1 : 2;
          places.push([rank, place]);
        }
      });
      places.sort((one, other) =>
        one[0] - other[0] || weight(other[1]) - weight(one[1]) || one[1] - other[1]);
      if (chosen < 0) chosen = places[0][1];
      part("matches").replaceChildren(...places.slice(0, MOST_MATCHES).map(([, place]) => {
        const button = create("button");
        Object.assign(button, { type: "button", value: String(place) });
        button.append(isolated(texts(place).at(-1)));
        button.addEventListener("click", () => show(place));
        const item = create("li");
        item.append(button);
        return item;
      }));
      const more = places.length > MOST_MATCHES ? `, first ${MOST_MATCHES} listed` : "";
      said = places.length === 1 ? `1 ${what} found` : `${number(places.length)} ${what}s found${more}`;
      element(article).hidden = !places.length;
      if (places.length) show(wanted ? places[0][1] : chosen, byHand);
      else part("found").replaceChildren(...missing(isolated(wanted)));
    }

    const turn = (step) => () => show((chosen + step + count) % count);
    part("text").addEventListener("input", () => search());
    element(`find-${what}`).addEventListener("submit", (event) => event.preventDefault());
    part("previous").addEventListener("click", turn(-1));
    part("next").addEventListener("click", turn(1));
    part("random").addEventListener("click", () => {
      part("text").value = "";
      chosen = Math.floor(Math.random() * count);
      search();
    });
    search(false);
    return {
      show,
      chosen: () => chosen,
      redraw: () => draw(chosen),
      // The one with this id, as in the page's address.
      open(id) {
        const place = Array.from({ length: count }, (_, at) => texts(at)[0]).indexOf(id);
        part("text").value = "";
        if (place >= 0) { show(place, false); go(article); }
        else part("found").replaceChildren(...missing(isolated(id)));
      },
    };
  }

  function person(place) {
    const [user, known, had, list] = data.people[place];
    element("person-name").replaceChildren("User ", isolated(user));
    element("person-known").textContent = known === 1 ? "1 interaction" : `${number(known)} interactions`;
    const past = [];
    for (let i = 0; i < had.length; i += 2) past.push(entry(day(had[i + 1]), had[i]));
    const none = () => create("li", "No history yet: the list shows what most people like.");
    element("history").replaceChildren(...(past.length ? past : [none()]));
    const rows = [];
    for (let i = 0; i < list.length; i += 3) {
      const because = list[i + 1];
      rows.push(entry(String(i / 3 + 1), list[i],
        because >= 0 ? overlap(list[i + 2], because, "this")
          : known ? ["no item in their history shares an audience with this"] : null));
    }
    element("recommended").replaceChildren(...rows);
  }
  // "361 of 613 people who liked X also liked this".
  const overlap = (both, liked, other) =>
    [`${number(both)} of ${number(data.items[liked][USERS])} people who liked `, named(liked), ` also liked ${other}`];

  function item(place) {
    const [id, title, users, lists, near] = data.items[place];
    element("item-name").replaceChildren(...picture(place), isolated(titleOf(place)), ...pageOf(place));
    element("item-known").replaceChildren(
      ...(title === null ? [] : ["item ", isolated(id), "; "]),
      `in ${number(lists)} lists; ${number(users)} of the people counted have it`
    );
    const getting = getters().get(place) ?? [];
    element("gets").replaceChildren(...getting.slice(0, MOST_GETTING).map(([rank, user]) => {
      const row = create("li");
      const button = create("button", undefined, "link");
      button.type = "button";
      button.append(isolated(data.people[user][ID]));
      button.addEventListener("click", () => { users_.show(user); go("person"); });
      row.append(create("span", String(rank), "mark"), button);
      return row;
    }), ...(getting.length ? [] : [create("li", "Nobody among the users above.")]));
    const rows = [];
    for (let i = 0; i < near.length; i += 2) {
      rows.push(entry("", near[i],
        [`${number(near[i + 1])} of ${number(users)} people who liked this also liked it`]));
    }
    element("goes").replaceChildren(...(rows.length ? rows : [create("li", "Nothing is counted for this item.")]));
  }
  // By item, its [rank, user], best first.
  let byItem = null;
  function getters() {
    if (byItem === null) {
      byItem = new Map();
      data.people.forEach(([, , , list], user) => {
        for (let i = 0; i < list.length; i += 3) {
          if (!byItem.has(list[i])) byItem.set(list[i], []);
          byItem.get(list[i]).push([i / 3 + 1, user]);
        }
      });
      for (const found of byItem.values()) found.sort((one, other) => one[0] - other[0]);
    }
    return byItem;
  }

  let users_ = null, items = null;
  if (data.people.length) {
    element("browser").hidden = element("item-browser").hidden = false;
    const sampled = "sampled" in element("browser").dataset;
    users_ = finder("user", "person", data.people.length, (place) => [data.people[place][ID]], person,
      (wanted) => [sampled ? "No user id in this sample contains " : "No user id contains ", wanted,
        sampled ? "; batchrec show finds all users" : ""]);
    items = finder("item", "item", data.items.length,
      (place) => (data.items[place][TITLE] === null ? [data.items[place][ID]]
        : [data.items[place][ID], data.items[place][TITLE]]),
      item, (wanted) => ["No item here has ", wanted, " in its title or id"],
      (place) => data.items[place][LISTS]);
    element("user-csv").addEventListener("click", () => {
      const [user, , , list] = data.people[users_.chosen()];
      const rows = [["user_id", "rank", "item_id", "title", "because_item_id", "people_who_like_both"]];
      for (let i = 0; i < list.length; i += 3) {
        const [of, because] = [data.items[list[i]], data.items[list[i + 1]]];
        rows.push([user, i / 3 + 1, of[ID], of[TITLE], because?.[ID], because ? list[i + 2] : ""]);
      }
      download(`user-${user}`, rows);
    });
    element("item-csv").addEventListener("click", () => {
      const place = items.chosen();
      const rows = (getters().get(place) ?? []).map(([rank, user]) =>
        [data.items[place][ID], data.items[place][TITLE], data.people[user][ID], rank]);
      download(`item-${data.items[place][ID]}`, [["item_id", "title", "user_id", "rank"], ...rows]);
    });
    element("images")?.addEventListener("change", () => { users_.redraw(); items.redraw(); });
    const follow = () => {
      const [, what, id] = /^#(user|item)=(.*)$/s.exec(location.hash) ?? [];
      if (what === undefined) return;
      try { (what === "user" ? users_ : items).open(decodeURIComponent(id)); } catch { /* no such address */ }
    };
    addEventListener("hashchange", follow);
    follow();
  }

  const theme = element("theme");
  let dark = matchMedia("(prefers-color-scheme: dark)").matches;
  const update = () => {
    theme.setAttribute("aria-pressed", String(dark));
    theme.textContent = `Dark: ${dark ? "on" : "off"}`;
  };
  theme.hidden = false;
  update();
  theme.addEventListener("click", () => {
    dark = !dark;
    document.documentElement.dataset.theme = dark ? "dark" : "light";
    update();
  });

  // Print the tables too.
  let collapsed = [];
  addEventListener("beforeprint", () => {
    collapsed = [...document.querySelectorAll("details:not([open])")];
    collapsed.forEach((details) => (details.open = true));
  });
  addEventListener("afterprint", () => collapsed.forEach((details) => (details.open = false)));
})();
